"""Which way weights take: decided here and nowhere else."""

from collections.abc import Sequence

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError

HOST = "host"  # our weight-transfer engine inside vLLM's worker: shared memory and broadcast


def backend(config: RunConfig) -> str:
    """vLLM's name of the weight-transfer engine that an engine is started with: "host", "nccl" or "ipc"."""
    asked = config.rollout.weight_transfer
    if asked in ("nccl", "ipc") and not config.rollout.gpus:
        raise ConfigError(f"rollout.weight_transfer: {asked} needs GPUs; set rollout.gpus, or shared_memory")
    if asked == "auto":
        return "nccl" if config.rollout.gpus else HOST
    return asked if asked in ("nccl", "ipc") else HOST


def transport(config: RunConfig, policy_nodes: Sequence[str], engine_nodes: Sequence[str]) -> str:
    """"shared_memory", "broadcast", "nccl" or "ipc". nodes: on which each policy rank and each engine runs.

    Raises ConfigError where shared memory is asked for and they do not share a host.
    """
    chosen, asked = backend(config), config.rollout.weight_transfer
    if chosen != HOST:
        return chosen
    shared = one_host(policy_nodes, engine_nodes)
    if asked == "shared_memory" and not shared:
        raise ConfigError("rollout.weight_transfer: shared_memory needs all policy workers and engines on one host, and they "
                          f"run on {len({*policy_nodes, *engine_nodes})}; set auto or broadcast")
    return ("shared_memory" if shared else "broadcast") if asked == "auto" else asked


def one_host(policy_nodes: Sequence[str], engine_nodes: Sequence[str]) -> bool:
    """Whether all run on the same node: then a group meets on loopback."""
    return len({*policy_nodes, *engine_nodes}) == 1
