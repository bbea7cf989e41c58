"""The sections of the stages before and beside PPO, which learn from rows: base, SFT, reward model, best of n, DPO.

Imports no torch.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from scale_rlhf.config.roles import Adaptable, Optimisation, Placed, Schedule

SUPERVISED = {"base": "base", "sft": "sft", "reward": "reward_model", "best_of_n": "best_of_n", "dpo": "dpo"}  # stage: section
Feedback = Literal["pairs", "comparisons", "ratings", "rankings", "binary"]
Aspect = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class SupervisedSection(Placed, Optimisation):
    """A stage trained by TRL under Ray Train."""

    workers: PositiveInt = Field(1, description="Ranks of Ray Train; each sees its share of a batch.")
    model: str | None = Field(None, description="Folder or hub name to start from. null: what the stage before made.")
    learning_rate: PositiveFloat = Field(1e-3, description="Of AdamW, after warm-up.")
    schedule: Schedule = Field("cosine", description="Learning rate after warm-up.")
    epsilon: PositiveFloat = Field(1e-8, description="Adam's eps.")
    epochs: PositiveFloat = Field(1.0, description="Passes over the data; fractions stop early.")
    max_steps: PositiveInt | None = Field(None, description="Stop after so many optimizer steps.")
    batch_size: PositiveInt = Field(32, description="Samples of one optimizer step, over all workers.")
    microbatch: PositiveInt = Field(16, description="Samples of one forward.")
    max_tokens: PositiveInt = Field(256, description="Longer sequences are cut.")
    sorted_batches: PositiveInt = Field(1, description="So many batches are drawn at a time, made up by length, and trained on in an order by chance: forwards pad less, and workers wait less for the one with the longest rows. 1: every batch is drawn by chance.")
    held_out_every: PositiveInt | None = Field(None, description="Optimizer steps between measurements on the held-out rows, beside the one at the end. null: at the end alone.")
    save_every: PositiveInt | None = Field(200, description="Optimizer steps between checkpoints, from which `scale-rlhf resume` goes on; the two newest are kept while the stage runs. null: none, and a stage that was interrupted begins anew.")


class BaseStageSection(SupervisedSection):
    learning_rate: PositiveFloat = Field(2e-3, description="Of AdamW, after warm-up.")


class SftSection(Adaptable, SupervisedSection):
    packing: bool = Field(False, description="Several samples a row of max_tokens, without padding and without attention between them.")
    neftune_alpha: PositiveFloat | None = Field(None, description="NEFTune (Jain et al. 2023): noise on the embeddings while training, uniform within ±alpha/√(tokens of a row · width). 5 to 15 are usual. null: none.")


class RewardModelSection(Adaptable, SupervisedSection):
    feedback: Feedback = Field("pairs", description="What `data.preferences` holds and the model learns. pairs: chosen and rejected, or all pairs of rated responses (Bradley–Terry). comparisons: the same of ratings, with every response read once: a sample is a prompt with all its responses. ratings: the score is the mean rating (regression). rankings: `ranking` or `ranks`, or ratings put in order (Plackett–Luce). binary: `response` and `good` (logistic).")
    aspects: list[Aspect] = Field([], description="Keys of `ratings` by aspect, such as [helpful, honest]: one head each, mixed by reward.aspects. []: one score. For comparisons, ratings and rankings.")
    margin: bool = Field(True, description="Of pairs and comparisons: take the difference of the ratings, or the pair's own `margin`, into the loss (Llama 2), where there is one.")
    minimum_gap: NonNegativeFloat = Field(0.5, description="Pairs, those that the model is judged by too, are made of responses whose mean ratings differ by at least this.")


class BestOfNSection(SftSection):
    """Rejection sampling: the best of several answers to each prompt, by the reward, are learned as instructions are."""

    responses_per_prompt: int = Field(8, ge=2, description="Answers to each prompt that the reward chooses from.")
    prompts: PositiveInt | None = Field(None, description="At most so many of `data.prompts`.")


class DpoSection(Adaptable, SupervisedSection):
    """Alignment without a reward model: from preferences to the policy in one step, by TRL."""

    learning_rate: PositiveFloat = Field(1e-5, description="Of AdamW, after warm-up.")
    loss: Literal["dpo", "ipo", "cdpo", "kto"] = Field("dpo", description="dpo: Rafailov et al. 2023. ipo: Azar et al. 2023, the log-ratios a token. cdpo: dpo with labels that are wrong with probability label_smoothing (Mitchell 2023). kto: good and bad answers instead of pairs (Ethayarajh et al. 2024).")
    beta: PositiveFloat = Field(0.1, description="How near the reference the policy stays: β of the KL penalty whose optimum is aimed at (of ipo: τ). The reference is what the policy starts from.")
    label_smoothing: float = Field(0.1, gt=0, lt=0.5, description="cdpo: probability that a label is wrong.")
    good_weight: PositiveFloat = Field(1.0, description="kto: weight of the loss on good answers; with the other one, evens out unequal numbers of both.")
    bad_weight: PositiveFloat = Field(1.0, description="kto: weight of the loss on bad answers.")
