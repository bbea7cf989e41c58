"""What roles have in common: optimisation, and processes with their share of the machines. Imports no torch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Dtype = Literal["float32", "bfloat16"]
ZeroStage = Literal[0, 1, 2, 3]
Schedule = Literal["constant", "linear", "cosine"]


class Section(BaseModel):
    """Unknown keys are errors, and assignments from Python are checked like the file."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, protected_namespaces=())


class Optimisation(Section):
    """What every trained role has."""

    learning_rate: PositiveFloat = Field(1e-5, description="Of AdamW, after warm-up.")
    schedule: Schedule = Field("constant", description="Learning rate after warm-up.")
    warmup_steps: NonNegativeInt = Field(0, description="Optimizer steps of linear warm-up.")
    weight_decay: NonNegativeFloat = Field(0.0, description="Of AdamW, decoupled.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="Of AdamW.")
    epsilon: PositiveFloat = Field(1e-5, description="Adam's eps; 1e-5 as in the PPO papers.")
    max_gradient_norm: PositiveFloat = Field(1.0, description="Global gradient norm is clipped to this.")
    dtype: Dtype = Field("float32", description="Type that the model computes in. bfloat16 keeps fp32 master weights in the optimizer.")
    autocast: bool = Field(False, description="bfloat16 by autocast over fp32 weights, instead of bfloat16 weights; needs dtype: bfloat16.")
    gradient_checkpointing: bool = Field(False, description="Recompute activations in the backward pass: less memory, a third more time.")
    zero_stage: ZeroStage = Field(2, description="DeepSpeed ZeRO: what is sharded over the workers. With bfloat16 weights 0 runs as 1.")
    offload_optimizer: bool = Field(False, description="Keep optimizer state in CPU memory (ZeRO 1 to 3).")
    offload_parameters: bool = Field(False, description="Keep parameters in CPU memory (ZeRO 3).")


class LoraSection(Section):
    """LoRA (Hu et al. 2022): the model stays as it is, and beside each matrix W of some layers the product of two small ones is
    trained: W + alpha/rank · B·A.
    """

    rank: PositiveInt = Field(16, description="Rows of A and columns of B.")
    alpha: PositiveFloat = Field(32.0, description="The product counts alpha/rank.")
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field("all-linear", description="Names of linear layers, such as [q_proj, v_proj], in every block. all-linear: all of them but the output head.")


class SupervisedLora(LoraSection):
    dropout: float = Field(0.0, ge=0, lt=1, description="While training, share of A's inputs that is left out.")


class Adaptable(Section):
    lora: SupervisedLora | None = Field(None, description="Train an adapter instead of the whole model; {} for its defaults. null: off.")


class Placed(Section):
    """Processes of a role, and what each is given."""

    cpus: PositiveFloat = Field(1.0, description="CPUs of each process, for placement; fractions share one.")
    gpus: NonNegativeFloat = Field(0.0, description="GPUs of each process; fractions share one.")
    threads: PositiveInt = Field(1, description="Compute threads of each process on CPU.")
    labels: dict[str, str] = Field({}, description="Labels that a node must have for this role, as given to `ray start --labels`, such as {role: rollout}.")
    resources: dict[str, PositiveFloat] = Field({}, description="Further Ray resources that each process takes, as given to `ray start --resources`.")
    placement: Literal["pack", "spread"] = Field("pack", description="Its processes on as few nodes as possible, or on as many. An engine's or a replica's own ranks are never told apart.")


class TrainedRole(Placed, Optimisation):
    workers: PositiveInt = Field(1, description="DeepSpeed ranks.")
    model: str | None = Field(None, description="Folder or hub name to start from. null: what the stage before made.")
    lora: LoraSection | None = Field(None, description="Train an adapter instead of the whole model; {} for its defaults. null: off. Of the policy: the adapter alone travels to the engines, and where reference.model is null the policy without it is the reference.")


class FrozenRole(Placed):
    replicas: PositiveInt = Field(1, description="Independent copies of the server.")
    workers: PositiveInt = Field(1, description="Ranks of one replica; more than one shards the model by ZeRO 3.")
    dtype: Dtype = Field("float32", description="Type that the model computes in.")
    tokens_per_batch: PositiveInt = Field(2048, description="Token budget of one forward.")
    max_wait_ms: NonNegativeFloat = Field(100.0, description="How long a request may wait for others to share its batch, with overlap.max_staleness above 0. Short waits make small batches, which cost more than they save.")
