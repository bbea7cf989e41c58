"""Is it learning? What moves the policy, and what it does to its answers; and the same of the stages before."""

from scale_rlhf.config.schema import SUPERVISED as SUPERVISED_STAGES
from scale_rlhf.telemetry.catalogue.metric import Metric

POLICY, VALUE = (("role", "policy"),), (("role", "value"),)
BEFORE_PPO = tuple(SUPERVISED_STAGES)

LEARNING = (
    Metric("reward/score_mean", "reward_score", "Mean score of a step's responses, as the reward gave it.",
           "Rises, then flattens.",
           "Flat: look at reward_score_deviation; raise policy.learning_rate or the batch. Falls: lower the learning rate. "
           "Rises while answers get worse: the reward is being exploited; read ppo/samples.jsonl, raise ppo.kl_coefficient."),
    Metric("reward/score_std", "reward_score_deviation", "Deviation of the scores within a step.",
           "Clearly above 0; shrinks slowly.", "Near 0: all answers score alike and nothing can be learned from them; look at "
           "the answers, raise rollout.temperature, take harder prompts."),
    Metric("reward/total_mean", "reward_total", "Mean score less the KL penalty: what PPO maximises.", "Rises with the score.",
           "Falls while the score rises: the penalty outgrows the gain; lower the learning rate or ppo.kl_coefficient."),
    Metric("kl/reference_mean", "kl", "KL to the reference, nats a response.",
           "Rises from 0 and settles: a few nats for short answers, tens for long ones.",
           "Runs away: raise ppo.kl_coefficient, set ppo.kl_target, or lower the learning rate. Stays at 0: nothing is learned."),
    Metric("kl/coefficient", "kl_coefficient", "β of the KL penalty.", "Constant; with ppo.kl_target it follows the KL.",
           "At many times its start: the target is too tight for this learning rate."),
    Metric("", "kl_limit", "limits.kl, past which the run stops; absent where it is null.", "Well above the KL.",
           "Set it: the alert on the KL reads it."),
    Metric("", "kl_target", "ppo.kl_target; absent where it is null.", "The KL moves around it.", "See kl."),
    Metric("response/tokens_mean", "response_tokens", "Mean length of a response.", "Moves slowly.",
           "Runs to rollout.max_response_tokens: the reward likes length, or responses do not end; see the next."),
    Metric("response/ended_share", "response_ended_share", "Share of responses that ended by themselves.", "Near 1.",
           "Falls: raise rollout.max_response_tokens, or set ppo.missing_end_penalty."),
    Metric("policy/loss", "loss", "Policy loss, mean over a step's updates.", "Around 0; its value says little.",
           "Explodes: lower policy.learning_rate.", fixed=POLICY),
    Metric("value/update_loss", "loss", "Value loss, mean over a step's updates.", "Falls, then moves with the returns.",
           "Rises for long: lower value.learning_rate.", fixed=VALUE),
    Metric("policy/gradient_norm", "gradient_norm", "Norm of the policy's gradient before clipping.",
           "Of one order of magnitude.", "Spikes: look at that step's samples; lower the learning rate.", fixed=POLICY),
    Metric("value/update_gradient_norm", "gradient_norm", "Norm of the value model's gradient before clipping.",
           "Of one order of magnitude.", "As for the policy.", fixed=VALUE),
    Metric("policy/learning_rate", "learning_rate", "Learning rate of the policy.", "Follows policy.schedule.", "–",
           fixed=POLICY),
    Metric("value/update_learning_rate", "learning_rate", "Learning rate of the value model.", "Follows value.schedule.", "–",
           fixed=VALUE),
    Metric("policy/entropy", "policy_entropy", "Entropy of the policy on its responses, nats a token.", "Falls slowly.",
           "Falls to 0 early: all answers become one; raise ppo.kl_coefficient, lower the learning rate."),
    Metric("policy/clip_fraction", "policy_clip_fraction", "Share of tokens whose ratio PPO clipped.", "0.01 to 0.2.",
           "Above: lower the learning rate or ppo.epochs. 0 for long: the updates are too timid."),
    Metric("policy/approximate_kl", "policy_approximate_kl", "KL of an update, nats a token.", "Below 0.05.",
           "Above: lower the learning rate or ppo.epochs."),
    Metric("policy/ratio", "policy_ratio", "Mean ratio π/π_old over the updates.", "Within a few percent of 1.",
           "Away from 1: as for approximate_kl; at the first update of a run: look at parity_gap_max."),
    Metric("value/explained_variance", "value_explained_variance", "Share of the returns' variance that the values explain.",
           "Rises from about 0 towards 0.5 to 0.9.", "Below 0 for long: raise value.learning_rate, or start the value model from "
           "the reward model (value.initial)."),
    Metric("value/value_error", "value_error", "Mean squared error of the values before the update.", "Falls.",
           "Rises: lower value.learning_rate."),
    Metric("value/update_value_error", "value_update_error", "Mean squared error of the values over the update's steps.",
           "Below value_error.", "Above it: the value model unlearns; lower value.learning_rate."),
    Metric("value/value", "value_mean", "Mean value of a response's tokens.", "Follows value_return.", "See explained variance."),
    Metric("value/return", "value_return", "Mean return of a response's tokens.", "Follows reward_total.", "–"),
    Metric("value/advantage_deviation", "advantage_deviation", "Deviation of the advantages before whitening.",
           "Of one order of magnitude.", "Near 0: nothing to learn from; see reward_score_deviation."),
    Metric("value/kl", "anchor_kl", "KL to the reference as the penalty takes it: with the anchor's log-probabilities, nats a "
           "response.", "Near kl.", "Far from it: samples are stale; see policy_gap_mean."),
    Metric("value/score", "trained_score", "Mean score of the batch as it was trained on.", "Equal to reward_score.", "–"),
    Metric("value/score_with_penalty", "trained_score_with_penalty", "The same with ppo.missing_end_penalty.",
           "Near trained_score.", "Far below: many responses do not end."),
    Metric("value/ended", "trained_ended_share", "Share of the batch's responses that ended.", "Equal to response_ended_share.",
           "–"),
)

SUPERVISED = (
    Metric("loss", "supervised_loss", "Loss of a step.", "Falls, then flattens.", "Rises or is no number: lower learning_rate.",
           stages=BEFORE_PPO),
    Metric("learning_rate", "supervised_learning_rate", "Learning rate.", "Follows the schedule.", "–", stages=BEFORE_PPO),
    Metric("grad_norm", "supervised_gradient_norm", "Norm of the gradient before clipping.", "Of one order of magnitude.",
           "Spikes: lower learning_rate, look at the data.", stages=BEFORE_PPO),
    Metric("mean_token_accuracy", "supervised_token_accuracy", "Share of labelled tokens that were the most likely.", "Rises.",
           "Flat: raise learning_rate.", stages=BEFORE_PPO),
    Metric("entropy", "supervised_entropy", "Entropy of the predictions, nats a token.", "Falls.", "–", stages=BEFORE_PPO),
    Metric("accuracy", "supervised_accuracy", "Reward model and dpo: share of pairs that are ranked as rated.",
           "Rises to 0.6 (people's ratings) or 0.9 (clear ones).", "At 0.5: the pairs say nothing, or the columns are swapped.",
           stages=BEFORE_PPO),
    Metric("margin", "supervised_margin", "Reward model: mean difference of the scores in a pair. dpo: of β log π/π_ref.",
           "Rises.", "Negative: as for the accuracy.", stages=BEFORE_PPO),
    Metric("chosen_reward", "supervised_chosen_reward", "dpo: mean of β log π/π_ref of the chosen answers.", "Rises, or falls "
           "more slowly than that of the rejected ones.", "Falls far below 0: the chosen answers become unlikely too; lower "
           "dpo.learning_rate, raise dpo.beta.", stages=BEFORE_PPO),
    Metric("rejected_reward", "supervised_rejected_reward", "dpo: mean of β log π/π_ref of the rejected answers.", "Falls.", "–",
           stages=BEFORE_PPO),
    Metric("kl", "supervised_kl", "dpo with dpo.loss kto: its reference point, an estimate of the KL to the reference, nats a "
           "response.", "Rises from 0 and settles.", "Runs away: lower dpo.learning_rate, raise dpo.beta.", stages=BEFORE_PPO),
    Metric("held_out_loss", "supervised_held_out_loss", "Loss on the held-out rows, every held_out_every steps.",
           "Falls with the loss.", "Rises while the loss falls: fewer epochs, or more data.", stages=BEFORE_PPO),
    Metric("held_out_perplexity", "supervised_held_out_perplexity", "exp of held_out_loss.", "Falls.", "As for it.",
           stages=BEFORE_PPO),
    Metric("held_out_accuracy", "supervised_held_out_accuracy", "Share of the held-out pairs that are ranked as rated.",
           "Rises with the accuracy.", "Falls while the accuracy rises: fewer epochs, or more data.", stages=BEFORE_PPO),
    Metric("held_out_calibration_error", "supervised_held_out_calibration_error", "Calibration error on the held-out pairs.",
           "Below 0.1.", "Rises: the model grows too sure of itself; fewer epochs.", stages=BEFORE_PPO),
    Metric("held_out_margin", "supervised_held_out_margin", "dpo: margin on the held-out rows.", "Rises with the margin.",
           "As for held_out_accuracy.", stages=BEFORE_PPO),
)
