"""Is it learning, on prompts that it is not trained on? Evaluations during PPO: a line a version, in metrics/held_out.jsonl."""

from scale_rlhf.telemetry.catalogue.metric import Metric


def _metric(key: str, about: str, normal: str, cure: str) -> Metric:
    return Metric(f"evaluate/{key}", f"evaluate_{key}", about, normal, cure, stages=("held_out",))


_AS_SCORE = "Falls while evaluate_reward rises: as for evaluate_score."

HELD_OUT = (
    _metric("reward", "Mean training reward of the answers to held-out prompts (evaluation.every).", "Rises with reward_score.",
            "Far below reward_score: the policy learns its prompts by heart; more prompts, fewer epochs."),
    _metric("reward_error", "Standard error of evaluate_reward.", "Small beside its changes.",
            "Raise evaluation.during_prompts."),
    _metric("score", "Mean score of the same answers by the judge that evaluation.judge names.", "Rises with evaluate_reward.",
            "Falls while evaluate_reward rises: the reward is being exploited; report.html says from which version on. Go back "
            "to a model of before, raise ppo.kl_coefficient, train a better reward."),
    _metric("score_error", "Standard error of evaluate_score.", "Small beside its changes.", "Raise evaluation.during_prompts."),
    _metric("helpful", "How helpful the judge finds them, where it says so.", "Rises.", _AS_SCORE),
    _metric("honest", "How honest.", "Rises.", _AS_SCORE),
    _metric("harmless", "How harmless.", "Stays high.", _AS_SCORE),
    _metric("right_form", "Share that the judge finds in the right form.", "Near 1.", "Falls: read ppo/held_out.jsonl."),
    _metric("tokens", "Mean length of the answers.", "That of response_tokens, at another temperature.",
            "As for response_tokens."),
    _metric("ended", "Share of them that ended by themselves.", "Near 1.", "As for response_ended_share."),
    _metric("answers", "Held-out prompts that were answered.", "evaluation.during_prompts, or all there are.", "–"),
    _metric("version", "Version that answered, mean over the tokens.",
            "The version that was asked; above it where versions arrived meanwhile, with overlap.", "–"),
    _metric("seconds", "From the question to the judged answers.", "Less than evaluation.every steps take.",
            "Near limits.evaluate_seconds: lower evaluation.during_prompts."),
)
