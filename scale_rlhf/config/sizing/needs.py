"""What one process of each role takes on its GPU."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scale_rlhf.config.roles import FrozenRole, Optimisation
from scale_rlhf.config.schema import RewardSection, RolloutSection, RunConfig
from scale_rlhf.config.sizing import activations, adapters, engine, training
from scale_rlhf.config.sizing.activations import Forward
from scale_rlhf.config.sizing.models import HEADS
from scale_rlhf.config.sizing.parameters import BYTES, Tensor, largest, tensors
from scale_rlhf.config.sizing.shapes import Shape
from scale_rlhf.config.supervised import RewardModelSection, SupervisedSection

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "cache", "buffers", "reserve")
GATHERED = 64 << 20  # bytes of weights that a policy gathers at once to publish them: training/worker.py
_TEXTS = {"pairs": 2, "comparisons": 4, "ratings": 1, "rankings": 4, "binary": 1}  # of a sample. Of prompts only the file says
_CONTEXT = 2_000_000_000  # bytes: CUDA's context, NCCL's buffers, workspaces. An allowance, not measured
_FRAGMENTATION = 0.05  # of what torch allocates. An allowance, not measured


@dataclass(frozen=True)
class Need:
    """Bytes on the GPU of one process, by what they are for, at the moment when they are most. host: in the node's memory.

    gpus: of a process; below 1 it shares one. least: bytes that an engine's share must have; 0 for other roles.
    """

    role: str
    model: str
    processes: int
    gpus: float
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    cache: int = 0
    buffers: int = 0
    reserve: int = 0
    host: int = 0
    moment: str = ""
    least: int = 0
    note: str = ""

    @property
    def total(self) -> int:
        return sum(getattr(self, part) for part in PARTS)

    def reserved(self) -> "Need":
        """With what torch and CUDA take beside the tensors."""
        return replace(self, reserve=_CONTEXT + int(_FRAGMENTATION * self.total))


def need(config: RunConfig, role: str, shape: Shape) -> Need:
    """What one process of `role` (a section of the configuration) takes with a model of that shape."""
    section = getattr(config, role)
    if isinstance(section, RolloutSection):
        return _engine(config, shape)
    if isinstance(section, FrozenRole):
        return _frozen(config, role, section, shape)
    return _trained(config, role, section, shape)


def longest_sample(config: RunConfig) -> int:
    """Tokens of the longest prompt with the longest response."""
    return config.data.max_prompt_tokens + config.rollout.max_response_tokens


def _trained(config: RunConfig, role: str, section: Optimisation, shape: Shape) -> Need:
    held = tensors(shape, HEADS.get(role, "language"))
    lora = getattr(section, "lora", None)
    moved = list(adapters.trained(held, lora)) if lora else held
    states = training.adapted(section, section.workers, held, moved) if lora else training.states(section, section.workers, held)
    # ZeRO 3 gathers whatever a forward needs; the others' buffers are for what is trained.
    buffered = held if training.stage_of(section) == 3 else moved
    buffers = training.buffers(section, section.workers, buffered, shape.hidden)
    forward = _micro_batch(config, role, section, shape)
    reference = _reference(section, held) if role == "dpo" else 0
    common = Need(role, shape.name, section.workers, section.gpus, states.weights + reference, states.gradients,
                  states.optimizer, host=states.host)
    logits = {"policy": activations.trained_logits, "dpo": activations.preference_logits} | dict.fromkeys(
        ("base", "sft", "best_of_n"), activations.supervised_logits)
    moments = [
        replace(common, moment="update", activations=activations.trained(forward, section.gradient_checkpointing),
                logits=logits[role](forward) if role in logits else 0, buffers=buffers.update),
        replace(common, moment="optimizer step", buffers=buffers.step),
    ]
    if role == "policy" and not lora:  # an adapter is copied as it lies
        widest = training.element(section) * largest(held)
        gathered = max(GATHERED, widest) if section.zero_stage == 3 else 0
        moments.append(replace(common, moment="publishing", buffers=gathered + engine.PACKED + widest))
    return max(moments, key=lambda moment: moment.total).reserved()


def _reference(section: Optimisation, held: Sequence[Tensor]) -> int:
    """Bytes of the frozen model beside the one that dpo trains: sharded with ZeRO 3, else whole on every worker."""
    workers = section.workers if section.zero_stage == 3 else 1
    return training.frozen(held, workers, training.element(section))[0]


def _micro_batch(config: RunConfig, role: str, section: Optimisation, shape: Shape) -> Forward:
    if isinstance(section, SupervisedSection):
        rows = min(section.microbatch, -(-section.batch_size // section.workers))
        texts = _TEXTS[section.feedback] if isinstance(section, RewardModelSection) else 2 if role == "dpo" else 1
        tokens, longest = rows * texts * section.max_tokens, section.max_tokens
    else:
        longest = longest_sample(config)
        tokens = max(config.ppo.tokens_per_microbatch, longest)
    return Forward(shape, tokens, longest, training.element(section), config.model.attention)


def _frozen(config: RunConfig, role: str, section: FrozenRole, shape: Shape) -> Need:
    size, longest = BYTES[section.dtype], longest_sample(config)
    weights, buffers = training.frozen(tensors(shape, HEADS.get(role, "language")), section.workers, size)
    weights *= 1 + len(section.ensemble) if isinstance(section, RewardSection) else 1  # as if all were of this shape
    forward = Forward(shape, max(section.tokens_per_batch, longest), longest, size, config.model.attention)
    return Need(
        role, shape.name, section.replicas * section.workers, section.gpus, weights, buffers=buffers, moment="forward",
        activations=activations.scored(forward), logits=activations.scored_logits(forward) if role == "reference" else 0,
    ).reserved()


def _engine(config: RunConfig, shape: Shape) -> Need:
    """An engine takes its share of the GPU, whatever it needs: what weights and forwards leave is cache."""
    rollout, gpu = config.rollout, config.cluster.gpu_gb
    size, ranks, held, longest = BYTES[rollout.dtype], rollout.tensor_parallel, tensors(shape), longest_sample(config)
    weights, working = engine.weights(held, shape, ranks, size), engine.working(shape, ranks, size, rollout.max_concurrent)
    least = weights + working + engine.longest_cache(shape, ranks, size, longest)
    share = int(rollout.gpu_memory_utilization * gpu * 1e9) if gpu else least
    cache = max(share, least) - weights - working
    room = cache // engine.cache_bytes(shape, ranks, size)
    note = (f"the cache of an engine holds {room:,} tokens: {room // longest:,} samples of {longest:,} tokens "
            f"(rollout.max_concurrent: {rollout.max_concurrent})") if gpu else ""
    return Need(
        "rollout", shape.name, rollout.fewest * ranks, rollout.gpus, weights, activations=working, cache=cache,
        buffers=engine.arriving(held, shape, ranks, size), moment="new weights", least=least, note=note,
    )
