"""What a run is. One class a section of the YAML file; every key has a type, a bound and a sentence.

Imports no torch: a login node can validate a run.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from scale_rlhf.config.methods import ADVANTAGES, LOSSES
from scale_rlhf.config.roles import Dtype, FrozenRole, Placed, Section, TrainedRole
from scale_rlhf.config.supervised import BaseStageSection, BestOfNSection, DpoSection, RewardModelSection, SftSection

StageName = Literal["base", "sft", "reward", "best_of_n", "dpo", "ppo", "evaluate"]
STAGES: tuple[str, ...] = get_args(StageName)  # in the order in which a run has them


class RunSection(Section):
    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run; its folder is folder/name.")
    seed: NonNegativeInt = Field(0, description="Every random choice of the run follows from it.")
    folder: str = Field("runs", description="Where run folders are made.")
    stages: list[StageName] = Field(["base", "sft", "reward", "ppo", "evaluate"], description="Stages of `run`, in order. best_of_n and dpo start from what sft made, as ppo does.", min_length=1)


class ScratchSection(Section):
    """A small model trained from nothing, in the shape of Qwen3."""

    hidden_size: PositiveInt = Field(128, description="Width of the residual stream.")
    layers: PositiveInt = Field(3, description="Transformer blocks.")
    heads: PositiveInt = Field(4, description="Attention heads.")
    key_value_heads: PositiveInt = Field(2, description="Key and value heads; must divide `heads`.")
    head_dim: PositiveInt = Field(32, description="Size of a head; vLLM's CPU backend has kernels for some sizes only.")
    intermediate_size: PositiveInt = Field(384, description="Width of the feed-forward layers.")
    vocabulary: int = Field(512, ge=264, description="Tokens of the byte-level BPE tokenizer that is trained on the base text.")
    context: PositiveInt = Field(256, description="Longest sequence.")
    tied_embeddings: bool = Field(True, description="The output head is the embedding matrix.")


class ModelSection(Section):
    path: str | None = Field(None, description="Folder or hub name of the model to start from. null: train `scratch` on the base text.")
    shapes: dict[str, str] = Field({}, description="Hub name: shape that ships with the project (llama-3.1-8b, …) or folder with a config.json, to plan with where the hub is not at hand.")
    scratch: ScratchSection = ScratchSection()
    chat_template: str | None = Field(None, description="File of a Jinja chat template. null: the tokenizer's own; a scratch model gets a short one.")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field("sdpa", description="Attention kernel of training, reward and reference.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model. Off unless you know its author.")


class DataSource(Section):
    path: str = Field(description="A JSON, JSONL (.gz too), Parquet or CSV file, or a hub name.")
    split: str = Field("train", description="Split, for hub names.")
    columns: dict[str, str] = Field({}, description="Our column name: the name in the file.")
    limit: PositiveInt | None = Field(None, description="Use the first rows only.")


def _source(value):
    return {"path": value} if isinstance(value, str) else value


Source = Annotated[DataSource, BeforeValidator(_source)]


class PracticeSection(Section):
    """The practice world: made by code, from a seed, as ordinary JSONL files."""

    seed: NonNegativeInt = Field(0, description="The files follow from it, byte by byte.")
    base_lines: PositiveInt = Field(6000, description="Lines of base text.")
    demonstrations: PositiveInt = Field(3000, description="Instruction and response pairs, of mixed quality.")
    rated_prompts: PositiveInt = Field(2500, description="Prompts with several rated responses each.")
    prompts: PositiveInt = Field(2000, description="Prompts for reinforcement learning.")


class WeightedSource(DataSource):
    weight: PositiveFloat = Field(1.0, description="Share of the samples that are trained on, relative to the other sources' weights.")


class DataSection(Section):
    practice: PracticeSection | None = Field(None, description="Make the practice world in the run's folder and use its files for every source that is null.")
    base_text: Source | None = Field(None, description="Rows with `text`. null: the text of the demonstrations.")
    instructions: Source | None = Field(None, description="Rows with `prompt` and `response`, or `messages`. null: the chosen answers of `preferences`.")
    mixture: list[WeightedSource] = Field([], description="Instruction data of several sources, instead of `instructions`. An epoch has as many samples as all of them have rows, and of each source its weight's share: a random part of them, or some of them more than once.")
    preferences: Source | None = Field(None, description="Rows that say which response is better, of any kind in docs/data.md: `chosen` and `rejected`; `responses` with `ratings` (by aspect too), or with `ranks`; `response` with `good`. Of all of them `dpo.loss: kto` learns from good and bad answers, the other losses from pairs.")
    prompts: Source | None = Field(None, description="Rows with `prompt` or `messages`. null: the prompts of `preferences`, or else of `instructions` or `mixture`.")
    evaluation: Source | None = Field(None, description="Held-out prompts, rows as in `prompts`. null: a share held out of `prompts`.")
    hold_out: float = Field(0.05, ge=0, lt=0.5, description="Share of `preferences` and, where `evaluation` is null, of `prompts` that is never trained on.")
    max_prompt_tokens: PositiveInt = Field(128, description="Longest prompt, chat template included.")
    long_prompts: Literal["error", "filter"] = Field("error", description="A prompt over the limit: stop before anything starts, or leave it out and count it.")


class EngineRange(Section):
    """As many engines as there is room for: more when a node joins the cluster, fewer when one leaves."""

    min: PositiveInt = Field(1, description="With fewer a run does not start, and stops where it stays so.")
    max: PositiveInt = Field(1, description="Never more.")

    @model_validator(mode="after")
    def _ordered(self) -> "EngineRange":
        if self.min > self.max:
            raise ValueError(f"min is at most max; found {self.min} and {self.max}")
        return self


class RolloutSection(Placed):
    engines: PositiveInt | EngineRange = Field(1, description="vLLM engines, each an actor; or {min: …, max: …}: as many as the cluster has room for, while it grows and shrinks.")
    tensor_parallel: PositiveInt = Field(1, description="Ranks of one engine.")
    dtype: Dtype = Field("float32", description="Type that the engine computes in.")
    temperature: PositiveFloat = Field(1.0, description="Sampling temperature; training divides logits by the same.")
    top_p: float = Field(1.0, gt=0, le=1, description="Must be 1 in RL: the learner's log-probabilities are over the whole vocabulary.")
    top_k: int = Field(0, ge=0, description="Must be 0 (off) in RL, for the same reason.")
    max_response_tokens: PositiveInt = Field(64, description="A response that has not ended is cut here.")
    stop: list[str] = Field([], description="Strings that end a response, besides the end token.")
    stop_token_ids: list[NonNegativeInt] = Field([], description="Tokens that end a response, besides the end token.")
    ignore_end: bool = Field(False, description="Generate max_response_tokens always.")
    max_concurrent: PositiveInt = Field(64, description="Samples that one engine decodes at once.")
    kv_cache_gb: PositiveFloat = Field(0.25, description="Memory of the key-value cache of one engine on CPU.")
    weight_transfer: Literal["auto", "shared_memory", "network", "nccl", "ipc"] = Field("auto", description="How weights reach engines. auto: nccl with GPUs; without, shared_memory where policy and engines share a host, else over the network.")
    verify_weights: bool = Field(False, description="After every update, prove that the engine computes with the trainer's weights, tensor by tensor.")
    gpu_memory_utilization: float = Field(0.85, gt=0, lt=1, description="Share of a GPU that an engine may take.")
    sleep: bool = Field(False, description="Engines give up their GPU memory while the learner updates (vLLM's sleep mode), so that both take turns on the same GPUs. With overlap.max_staleness 0 alone.")

    @property
    def elastic(self) -> bool:
        """Whether engines may come and go."""
        return isinstance(self.engines, EngineRange)

    @property
    def fewest(self) -> int:
        return self.engines.min if isinstance(self.engines, EngineRange) else self.engines

    @property
    def most(self) -> int:
        return self.engines.max if isinstance(self.engines, EngineRange) else self.engines


class ScoreSource(FrozenRole):
    """What gives answers a score; RewardSection says which keys go together."""

    model: str | None = Field(None, description="Folder or hub name of a sequence-classification model.")
    function: str | None = Field(None, description="Import path of a Python function, package.module:name.")
    arguments: dict[str, Any] = Field({}, description="Keyword arguments that `function` is called with beside the samples.")
    url: str | None = Field(None, description="Address of an HTTP service.")
    aspects: dict[str, float] = Field({}, description="Weight of each aspect of a model that scores several; one that is not named weighs 0. {}: their mean.")
    ensemble: list[str] = Field([], description="Folders or hub names of further models that score beside `model`, in the same processes.")
    combine: Literal["mean", "worst", "mean_minus_deviation"] = Field("mean", description="Of the scores of an ensemble: their mean, the least, or the mean less deviation_coefficient times their standard deviation.")
    deviation_coefficient: NonNegativeFloat = Field(1.0, description="Of combine: mean_minus_deviation.")
    timeout_seconds: PositiveFloat = Field(60.0, description="Of one try of a call of a function or service.")
    retries: int = Field(3, ge=0, le=20, description="Further tries of a call of a function or service that failed, came too late or gave nonsense; after them its samples are left out, and counted.")
    retry_seconds: float = Field(0.25, ge=0, le=60, description="Wait before the first further try; twice as long before each that follows, but at most a minute.")


class RewardSource(ScoreSource):
    """One source of reward."""

    normalise: int | None = Field(None, ge=2, description="Score so many reference answers (of data.instructions) once, before the first step, and make their rewards' mean 0 and deviation 1. null: rewards as they are.")
    clip: tuple[float, float] | None = Field(None, description="Bounds of the reward, after it is normalised. null: none.")


class MixedSource(RewardSource):
    weight: float = Field(1.0, description="The reward is the sum of weight · score over the sources.")


class OverlongSection(Section):
    """DAPO's soft punishment of length (Yu et al. 2025, equation 13)."""

    buffer_tokens: PositiveInt = Field(description="Over so many tokens before rollout.max_response_tokens the reward sinks, in a line.")
    penalty: PositiveFloat = Field(1.0, description="How far it has sunk at the limit.")


class RewardSection(RewardSource):
    """Where the reward comes from, and how it is shaped: each source is normalised, clipped and weighted, then length counts.
    Either one source, in this section itself, or several in `mix`, each a section with the same keys and a weight:

        mix: {right: {function: "…:final_answer", weight: 1.0}, liked: {model: FOLDER, normalise: 256, weight: 0.2}}

    One source is exactly one of model, function and url; all null: the model that the reward stage made. Only a model has
    workers, dtype, tokens_per_batch, max_wait_ms, aspects and an ensemble; only a function or a service has timeout_seconds, retries and
    retry_seconds; only a function has arguments.
    """

    mix: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], MixedSource] = Field({}, description="Several sources by names of your choice; keys as in this section, and `weight` (1).")
    overlong: OverlongSection | None = Field(None, description="Punish responses that come close to the limit of length. null: off.")


class ReferenceSection(FrozenRole):
    model: str | None = Field(None, description="Folder or hub name. null: what the policy starts from.")


class PolicySection(TrainedRole):
    pass


class ValueSection(TrainedRole):
    initial: Literal["reward", "policy"] = Field("reward", description="The value model starts from the reward model, or from the policy's start with a new head.")


class PPOSection(Section):
    steps: PositiveInt = Field(100, description="Policy versions to make.")
    prompts_per_step: PositiveInt = Field(64, description="Prompts of one batch.")
    responses_per_prompt: PositiveInt = Field(1, description="Samples of each prompt.")
    epochs: PositiveInt = Field(2, description="Passes over a batch.")
    minibatches: PositiveInt = Field(2, description="Optimizer steps of one pass.")
    tokens_per_microbatch: PositiveInt = Field(512, description="Token budget of one forward in training.")
    advantages: Literal[tuple(ADVANTAGES)] = Field("gae", description="gae: with the value model. The others have none (docs/methods.md): group_relative (GRPO), leave_one_out (RLOO) and reinforce_plus_plus_baseline compare the responses to one prompt, remax with a greedy one; reinforce_plus_plus compares with the batch.")
    scale_by_std: bool = Field(True, description="group_relative: divide by the deviation of the group (false: Dr. GRPO).")
    dynamic_sampling: bool = Field(False, description="Prompts whose responses all score alike are left out, and others are asked in their place until the batch is full (DAPO).")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount a token, with advantages: gae or reinforce_plus_plus.")
    lam: float = Field(0.95, ge=0, le=1, description="λ of generalized advantage estimation.")
    loss: Literal[tuple(LOSSES)] = Field("ppo", description="ppo: the ratio of each token is clipped. gspo: that of each response. cispo: the ratio is a clipped weight, and no token loses its gradient.")
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = Field("token_mean", description="What counts alike in the policy loss: each token; each response; or each token, at 1/rollout.max_response_tokens of a response whatever its length (Dr. GRPO).")
    clip_low: float = Field(0.2, gt=0, lt=1, description="The ratio is clipped below 1 − clip_low.")
    clip_high: PositiveFloat = Field(0.2, description="The ratio is clipped above 1 + clip_high.")
    dual_clip: float | None = Field(None, gt=1, description="Bound on the loss of negative advantages (Ye et al. 2020). null: off.")
    value_clip: PositiveFloat | None = Field(0.2, description="Range of the clipped value loss. null: off.")
    value_pretraining: NonNegativeInt = Field(0, description="First of the steps, in which the value model learns alone and the policy stays as it is.")
    kl_coefficient: NonNegativeFloat = Field(0.05, description="β of the KL penalty. 0: none.")
    kl_in: Literal["reward", "loss"] = Field("reward", description="Where the penalty is: in the reward of each token, so that advantages credit it; or a term of the policy loss.")
    kl_estimator: Literal["k1", "k2", "k3"] = Field("k1", description="Estimate of a token's KL. Of the three k1 alone is right in the reward, and has no gradient in the loss; there k2 has the reverse KL's, k3 (GRPO) the forward KL's.")
    kl_target: PositiveFloat | None = Field(None, description="Target of the adaptive coefficient, nats a response. null: fixed.")
    kl_horizon: PositiveInt = Field(10000, description="Samples over which the adaptive coefficient moves.")
    whiten_advantages: bool = Field(True, description="Advantages of the whole batch get mean 0 and deviation 1; with advantages: gae, reinforce_plus_plus and reinforce_plus_plus_baseline.")
    missing_end_penalty: float | None = Field(-1.0, description="Added to the score of a response that never ended. null: none.")
    export_every: PositiveInt | None = Field(None, description="Also write the policy as a Hugging Face folder, models/ppo-step-N, every so many steps.")


    @property
    def critic(self) -> bool:
        """Whether there is a value model."""
        return ADVANTAGES[self.advantages].critic


class OverlapSection(Section):
    """How far rollouts and updates overlap, and what corrects for it."""

    max_staleness: NonNegativeInt = Field(0, description="Policy versions that a sample may lag when it is trained on. 0: synchronous; 1: the next batch is generated during the update.")
    anchor: Literal["behaviour", "proximal"] = Field("behaviour", description="What the PPO ratio is taken against: the engine's log-probabilities, or those of the policy before the update, recomputed by the learner (decoupled PPO).")
    correction: Literal["none", "truncated", "token_mask", "sequence_mask"] = Field("none", description="Importance weight proximal/behaviour on each token, with anchor: proximal. truncated: at most correction_cap. token_mask: 0 outside correction_band. sequence_mask: truncated, and 0 for a response whose mean ratio is outside the band.")
    correction_cap: PositiveFloat = Field(2.0, description="Largest importance weight of `truncated` and `sequence_mask`.")
    correction_band: tuple[PositiveFloat, PositiveFloat] = Field((0.5, 2.0), description="Band of `token_mask` (ratio of a token) and `sequence_mask` (geometric mean over a response).")
    weight_update: Literal["in_flight", "drain"] = Field("in_flight", description="A new version reaches an engine while its samples wait in the middle, or once the running ones have ended.")
    recompute_cache: bool = Field(True, description="After an update in flight compute the key-value cache again with the new weights. false goes on with the old cache: right only because the ratio is against the engine's own log-probabilities.")
    update_wave: PositiveInt | None = Field(None, description="Engines that take a version at the same time. null: all together.")
    score_group: PositiveInt = Field(16, description="With max_staleness 0, samples that are scored together; groups are fixed by sample index.")


class CheckpointSection(Section):
    """What a PPO run can go on from: `ppo/checkpoints` in its folder."""

    save_every: PositiveInt | Annotated[str, Field(pattern=r"^[1-9]\d* ?(steps?|min)$")] | None = Field("10 min", description="How often a checkpoint is made: after so many steps (`20`, `20 steps`), or minutes (`10 min`). null: never.")
    keep_last: PositiveInt = Field(2, description="Newest checkpoints that are kept; a damaged one is made good by the one before.")
    keep_best: bool = Field(True, description="Also keep the one with the highest mean reward.")


class RecoverySection(Section):
    """What a PPO run does when one of its processes dies or falls silent."""

    restarts: NonNegativeInt = Field(10, description="Restarts within window_minutes, of all roles together; past them the run stops and says what failed. 0: stop at the first.")
    window_minutes: PositiveFloat = Field(60.0, description="Older restarts are forgiven.")
    backoff_seconds: NonNegativeFloat = Field(1.0, description="Wait before the first restart; each further one within the window waits twice as long.")
    backoff_limit_seconds: NonNegativeFloat = Field(60.0, description="Longest such wait.")
    answer_seconds: PositiveFloat = Field(30.0, description="A process whose call is late is asked whether it lives; past this silence it is replaced.")


class JudgeSource(ScoreSource):
    pairwise: bool = Field(False, description="It is shown two answers: a sample's `row` has the other one as `other`, and its score is how far it prefers `response`, from 0 to 1. It is asked in both orders.")


class PromptSet(DataSource):
    judges: list[str] | None = Field(None, description="Names of the evaluation.judges that judge the answers. null: all of them, or none where there is `verify`.")
    verify: ScoreSource | None = Field(None, description="A function or a service that says which answers are right, from 0 to 1: the set then measures a capability.")


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
SetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class EvaluationSection(Section):
    """Models, prompt sets and judges: every model answers every set, and every judge says what it thinks (docs/evaluation.md).

        models: {before: org/model}
        prompt_sets: {school: {path: school.jsonl, verify: {function: "scale_rlhf.reward.verifiable.mathematics:final_answer"}}}
        judges: {other: {model: FOLDER}, rules: {function: "package.module:name"}, large: {url: "https://…", pairwise: true}}

    A judge is exactly one of model, function and url, with the keys that a source of `reward` has (but normalise and clip) and
    `pairwise`; a prompt set has the keys of `data.evaluation` and `judges` and `verify`.
    """

    judge: str | None = Field(None, description="package.module:name of the judge of true quality of the held-out prompts. null: the practice world's, or the reward model alone.")
    models: dict[ModelName, str] = Field({}, description="Further models beside the run's own: folders or hub names, by names of your choice.")
    prompt_sets: dict[SetName, Annotated[PromptSet, BeforeValidator(_source)]] = Field({}, description="Prompts beside the held-out ones, by names of your choice.")
    judges: dict[SetName, JudgeSource] = Field({}, description="Judges beside `judge`, by names of your choice.")
    prompts: PositiveInt | None = Field(None, description="At most so many prompts of each set.")
    samples_shown: PositiveInt = Field(6, description="Prompts whose answers are printed side by side.")
    temperature: NonNegativeFloat = Field(0.7, description="Of the answers that are judged; 0 is greedy.")
    every: PositiveInt | None = Field(None, description="Steps of PPO between evaluations while it trains, by the same engines, from version 0 on: held-out prompts, the reward, and the judge where `judge` names one. null: none.")
    during_prompts: PositiveInt = Field(64, description="Held-out prompts of such an evaluation, at most.")
    diversity_prompts: NonNegativeInt = Field(32, description="Held-out prompts that are answered several times, to measure how different the answers are. 0: not measured.")
    diversity_samples: int = Field(4, ge=2, description="Answers to each of them.")
    refusal_pattern: str | None = Field(None, description="Regular expression of answers that refuse, for another language. null: that of English.")
    unknown_pattern: str | None = Field(None, description="Regular expression of answers that say that they do not know. null: that of English.")


class ClusterSection(Section):
    address: str | None = Field(None, description="Ray cluster to join. null: start one on this machine, on loopback.")
    cpus: PositiveFloat | None = Field(None, description="CPUs of the local cluster. null: the machine's.")
    gpus: NonNegativeInt | None = Field(None, description="GPUs of the local cluster. null: the machine's.")
    nodes: PositiveInt = Field(1, description="Nodes that the run is planned for.")
    gpus_per_node: PositiveInt | None = Field(None, description="GPUs of each node that the run is planned for. null: their number is not checked.")
    gpu_gb: PositiveFloat | None = Field(None, description="Memory of a GPU that the run is planned for, in GB of 10⁹ bytes. null: whether roles fit is not checked.")
    object_store_gb: PositiveFloat = Field(0.5, description="Shared memory of the local cluster's object store.")
    dashboard: bool = Field(True, description="Start Ray's dashboard, on loopback.")


class WandbSection(Section):
    """Weights & Biases. The key is WANDB_API_KEY of the environment, or what `wandb login` left."""

    project: str = Field("scale-rlhf", min_length=1, description="Project that the run appears in.")
    entity: str | None = Field(None, description="User or team. null: the account's own.")
    mode: Literal["online", "offline"] = Field("online", description="offline: into the run's folder, for `wandb sync` later.")


class MlflowSection(Section):
    """MLflow. User name and password are MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of the environment."""

    tracking_uri: str | None = Field(None, description="Address of the tracking server, or sqlite:///FILE. null: MLFLOW_TRACKING_URI of the environment, or MLflow's own default.")
    experiment: str = Field("scale-rlhf", min_length=1, description="Experiment that the run appears in; made where there is none.")


class TelemetrySection(Section):
    """Who gets the metrics beside the run's folder, TensorBoard and Prometheus. Each needs its package: pip install "scale-rlhf[wandb]", "scale-rlhf[mlflow]"."""

    wandb: WandbSection | None = Field(None, description="Weights & Biases; {} for its defaults. null: off.")
    mlflow: MlflowSection | None = Field(None, description="MLflow; {} for its defaults. null: off.")


class LimitsSection(Section):
    """Deadlines in seconds, and bounds that stop a run."""

    start_seconds: PositiveFloat = Field(300.0, description="For any actor to be ready.")
    generate_seconds: PositiveFloat = Field(600.0, description="For one response.")
    score_seconds: PositiveFloat = Field(300.0, description="For one scoring request.")
    update_seconds: PositiveFloat = Field(1800.0, description="For one update of policy or value.")
    publish_seconds: PositiveFloat = Field(300.0, description="For one version to reach the engines.")
    on_bad_numbers: Literal["stop", "skip"] = Field("stop", description="NaN or infinite log-probability, value, loss or gradient: stop, or leave those samples out and go on; what has reached the weights is undone by going back to the last checkpoint.")
    kl: PositiveFloat | None = Field(None, description="Mean KL to the reference, nats a response, past which a run stops. null: no bound.")
    failed_scores: PositiveInt = Field(8, description="Groups of samples in a row that the reward could not score, and that were filtered; past them a run stops.")
    silent_groups: PositiveInt = Field(256, description="Prompts in a row that ppo.dynamic_sampling left out; past them a run stops.")
    stall_seconds: PositiveFloat = Field(7200.0, description="For anything at all to go on in a PPO run: no sample, score, update or version within it means that something waits for ever.")
    checkpoint_seconds: PositiveFloat = Field(1800.0, description="For one checkpoint to be written.")
    evaluate_seconds: PositiveFloat = Field(600.0, description="For one evaluation during training; past it, it is given up and the run goes on.")
    parity_gap: PositiveFloat | None = Field(None, description="Largest difference between engine and trainer log-probabilities on the probe. null: 1e-4 in float32, 0.15 in bfloat16.")
    probe_every: PositiveInt = Field(1, description="Steps between probes.")


class RunConfig(Section):
    """A whole run; what `scale-rlhf config` prints."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    base: BaseStageSection = BaseStageSection()
    sft: SftSection = SftSection()
    reward_model: RewardModelSection = RewardModelSection()
    best_of_n: BestOfNSection = BestOfNSection()
    dpo: DpoSection = DpoSection()
    rollout: RolloutSection = RolloutSection()
    reward: RewardSection = RewardSection()
    reference: ReferenceSection = ReferenceSection()
    policy: PolicySection = PolicySection()
    value: ValueSection = ValueSection()
    ppo: PPOSection = PPOSection()
    overlap: OverlapSection = OverlapSection()
    checkpoint: CheckpointSection = CheckpointSection()
    recovery: RecoverySection = RecoverySection()
    evaluation: EvaluationSection = EvaluationSection()
    cluster: ClusterSection = ClusterSection()
    limits: LimitsSection = LimitsSection()
    telemetry: TelemetrySection = TelemetrySection()
