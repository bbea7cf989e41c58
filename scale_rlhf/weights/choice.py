"""Which way weights take: decided here and nowhere else."""

from collections.abc import Sequence

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError

HOST = "host"  # our weight-transfer engine inside vLLM's worker: shared memory and network

GROUPS = ("nccl", "ipc")  # vLLM's own: the policy and all engines are members


def backend(config: RunConfig) -> str:
    """vLLM's name of the weight-transfer engine that an engine is started with: "host", "nccl" or "ipc"."""
    asked = config.rollout.weight_transfer
    if config.rollout.elastic:
        if asked in (*GROUPS, "shared_memory"):
            raise ConfigError(f"rollout.weight_transfer: {asked} knows its engines from the start, and rollout.engines "
                              "{min, max} lets them come and go; set auto or network")
        return HOST
    if config.policy.lora:  # vLLM's own know whole weights alone
        if asked in GROUPS:
            raise ConfigError(f"rollout.weight_transfer: with policy.lora the adapter alone travels, and {asked} takes whole "
                              "weights; set auto, shared_memory or network")
        return HOST
    if asked in GROUPS and not config.rollout.gpus:
        raise ConfigError(f"rollout.weight_transfer: {asked} needs GPUs; set rollout.gpus, or shared_memory")
    if asked == "auto":
        return "nccl" if config.rollout.gpus else HOST
    return asked if asked in GROUPS else HOST


def transport(config: RunConfig, policy_nodes: Sequence[str], engine_nodes: Sequence[str]) -> str:
    """"shared_memory", "network", "nccl" or "ipc". nodes: on which each policy rank and each engine runs.

    Raises ConfigError where shared memory is asked for and they do not share a host.
    """
    chosen, asked = backend(config), config.rollout.weight_transfer
    if config.rollout.elastic:
        return "network"
    if chosen != HOST:
        return chosen
    shared = one_host(policy_nodes, engine_nodes)
    if asked == "shared_memory" and not shared:
        raise ConfigError("rollout.weight_transfer: shared_memory needs all policy workers and engines on one host, and they "
                          f"run on {len({*policy_nodes, *engine_nodes})}; set auto or network")
    return ("shared_memory" if shared else "network") if asked == "auto" else asked


def one_host(policy_nodes: Sequence[str], engine_nodes: Sequence[str]) -> bool:
    """Whether all run on the same node: then a group meets on loopback."""
    return len({*policy_nodes, *engine_nodes}) == 1
