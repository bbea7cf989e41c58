"""Is it healthy? Progress, who serves, faults, agreement of engine and trainer, staleness, memory, disk."""

from scale_rlhf.telemetry.catalogue.metric import Metric

_SERVING = ("role", "replica")

HEALTH = (
    Metric("", "step", "Steps that the stage has made; in PPO the policy's version.", "Counts up; goes back after a restart.",
           "Stands still: see the alert RunMakesNoProgress.", labels=("stage",)),
    Metric("", "steps", "Steps that the stage will make; absent where it is not known beforehand.", "–", "–", labels=("stage",)),
    Metric("", "stage_running", "1 for the stage that runs, 0 for one that has ended.", "One stage is 1.", "–",
           labels=("stage",)),
    Metric("", "step_timestamp_seconds", "When the last step ended, seconds since 1970.", "Moves with each step.",
           "See the alert RunMakesNoProgress."),
    Metric("", "step_seconds", "Seconds between the last two steps.", "Of one order of magnitude.",
           "Grows: look at phase_seconds for what takes longer."),
    Metric("", "up", "1 where a process of a role serves, else 0.", "1.",
           "0 for over a minute: see the alert RoleLost, `scale-rlhf top`, and the actor's log.", labels=_SERVING),
    Metric("", "state", "State of a process: 0 healthy, 1 suspect, 2 dead, 3 restarting, 4 stale (runs, and has not the newest "
           "weights yet), 5 starting.", "0.", "2 or 3 for long: its node may be full or gone.", labels=_SERVING),
    Metric("", "state_since_timestamp_seconds", "Since when it is in that state, seconds since 1970.", "Since the start.", "–",
           labels=_SERVING),
    Metric("", "restarts", "Processes that failed and were started again; role `run`: all roles at once, `controller`: the "
           "controller.", "0.", "Look at faults.jsonl: who, when, why.", kind="counter", labels=("role",)),
    Metric("rollout/engines", "rollout_engines", "Engines that serve.", "rollout.engines.", "See up."),
    Metric("parity/gap_max", "parity_gap_max", "Largest difference between the log-probabilities of engine and trainer on the "
           "probe, at one version, nats.", "Below 1e-5 in float32, below 0.1 in bfloat16.",
           "Near parity_gap_limit: the engine holds other weights, or computes in another type; the run stops past the limit."),
    Metric("parity/gap_mean", "parity_gap_mean", "The mean of the same.", "A fraction of the largest.", "As above."),
    Metric("", "parity_gap_limit", "The difference past which the run stops (limits.parity_gap).", "–", "–"),
    Metric("policy/gap_mean", "policy_gap_mean", "Difference between policy and samples before the first optimizer step, nats a "
           "token.", "That of parity at staleness 0; grows with staleness.", "Large: lower overlap.max_staleness or the learning "
           "rate."),
    Metric("policy/gap_p99", "policy_gap_p99", "The 99th percentile of the same.", "Some times the mean.", "As above."),
    Metric("policy/effective_share", "policy_effective_share", "Effective sample size of the weights π/π_engine, as a share of "
           "the tokens.", "Above 0.9; 1 is on-policy.", "Below 0.5: half of the batch counts for nothing; lower max_staleness."),
    Metric("staleness/max", "staleness_max", "Versions by which the oldest token of a step lags.",
           "At most overlap.max_staleness.", "–"),
    Metric("staleness/mean", "staleness_mean", "Mean over the step's samples of the same.", "At most overlap.max_staleness.",
           "At the maximum always: generation is far ahead, and a smaller maximum costs nothing."),
    Metric("staleness/spanning_share", "staleness_spanning_share", "Share of samples with tokens of several versions.",
           "0 at staleness 0; else up to 1.", "–"),
    Metric("staleness/share_{age}", "staleness_share", "Share of samples that lag by so many versions.", "–", "–"),
    Metric("queue/filtered", "samples_filtered", "Samples left out so far: they could not be scored, made bad numbers, or said "
           "nothing.", "0; grows steadily with ppo.dynamic_sampling.", "Grows: ppo/filtered.jsonl has the reasons."),
    Metric("{role}/failed_tries", "reward_failed_tries", "Tries of a reward function or service that failed.", "0.",
           "Grows: the service is overloaded or the function raises; the run's output says what.", kind="counter"),
    Metric("{role}/failed_calls", "reward_failed_calls", "Calls that failed at the last try: their samples are left out.", "0.",
           "Past limits.failed_scores in a row the run stops.", kind="counter"),
    Metric("checkpoint/seconds", "checkpoint_seconds", "Seconds until a checkpoint was on the disk.",
           "Less than the time between two.", "More: the disk is slow; raise checkpoint.save_every."),
    Metric("checkpoint/gb", "checkpoint_gigabytes", "Size of a checkpoint.", "12 bytes a parameter and model.", "–"),
    Metric("", "memory_bytes", "Resident memory of a process with those it started; what is shared counts for each. "
           "GPU memory is among Ray's own metrics.",
           "Flat after the first steps.", "Grows step by step: see docs/faults.md, memory.", labels=_SERVING),
    Metric("", "disk_free_bytes", "Free on the disk of the run's folder.", "Falls slowly.",
           "See the alert DiskFilling: checkpoint.keep_last, ppo.export_every."),
    Metric("", "disk_total_bytes", "Size of the disk of the run's folder.", "–", "–"),
)
