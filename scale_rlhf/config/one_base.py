"""Which process computes the reference's log-probabilities in PPO. Imports no torch."""

from scale_rlhf.config.schema import RunConfig


def policy_serves_reference(config: RunConfig) -> bool:
    """Whether the policy without its adapter is the reference: then no other process holds that model once more."""
    return config.policy.lora is not None and config.reference.model is None
