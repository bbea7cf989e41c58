"""What the board shows, from top to bottom: is it learning, is it healthy, who is the bottleneck."""

from dataclasses import dataclass

from scale_rlhf.telemetry.catalogue import BY_NAME

SELECTED = 'run=~"$run"'  # the run that is chosen at the top of the board


@dataclass(frozen=True)
class Panel:
    """queries: PromQL with the legend of its series. unit: Grafana's name of it."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    about: str = ""


def series(name: str, selector: str = SELECTED) -> str:
    """All series of a metric of the catalogue. KeyError where it has none of that name."""
    return f"{BY_NAME[name].exported}{{{selector}}}"


def _each(*names: str) -> tuple[tuple[str, str], ...]:
    """Metrics as they are, each called by its name and its labels."""
    return tuple((series(name), " ".join([name, *(f"{{{{{label}}}}}" for label in BY_NAME[name].label_names)])) for name in names)


_STOPPED = series("weights_stopped_seconds").replace("_count{", "_bucket{")

ROWS: dict[str, tuple[Panel, ...]] = {
    "Is it learning?": (
        Panel("Score", _each("reward_score", "reward_total", "reward_score_deviation"),
              about="Rises, then flattens. The total is the score less the KL penalty."),
        Panel("Held-out prompts", _each("evaluate_reward", "evaluate_score"),
              about="With evaluation.every. The judge falls while the reward rises: the reward is being exploited."),
        Panel("KL to the reference", _each("kl", "kl_limit", "kl_target"), about="Nats a response. Rises from 0 and settles."),
        Panel("Losses", _each("loss"), about="Their values say little; jumps say that the learning rate is too high."),
        Panel("Responses", _each("response_tokens"), about="Mean length in tokens."),
        Panel("Ended by themselves", _each("response_ended_share"), unit="percentunit"),
        Panel("Entropy", _each("policy_entropy"), about="Nats a token. Falls slowly; 0 early means that all answers become one."),
        Panel("Size of the updates", _each("policy_clip_fraction", "policy_approximate_kl"),
              about="Clipped share 0.01 to 0.2, KL of an update below 0.05 nats a token."),
        Panel("Explained variance of the values", _each("value_explained_variance"), about="Rises towards 0.5 to 0.9."),
        Panel("Gradient norms", _each("gradient_norm")),
    ),
    "Is it healthy?": (
        Panel("Progress", ((f"{series('step')} / {series('steps')}", "{{stage}}"),), unit="percentunit"),
        Panel("Since the last step", ((f"time() - {series('step_timestamp_seconds')}", "now"),
                                      (series("step_seconds"), "the last step took")), unit="s"),
        Panel("Processes that serve", ((f"sum by (role) ({series('up')})", "{{role}}"),),
              about="Falls when one is lost, and comes back when another has taken its place."),
        Panel("State of each process", ((series("state"), "{{role}}/{{replica}}"),),
              about="0 healthy, 1 suspect, 2 dead, 3 restarting, 4 has not the newest weights, 5 starting."),
        Panel("Restarts", ((f"sum by (role) ({series('restarts')}) or vector(0)", "{{role}}"),)),
        Panel("Samples left out", _each("samples_filtered")),
        Panel("Gap between engine and trainer", _each("parity_gap_max", "parity_gap_mean", "parity_gap_limit"),
              about="Nats, on the probe, at one version. The run stops past the limit."),
        Panel("Staleness", _each("staleness_mean", "staleness_max"), about="Policy versions."),
        Panel("Effective sample size", _each("policy_effective_share"), unit="percentunit", about="1 is on-policy."),
        Panel("Memory by role", ((f"sum by (role) ({series('memory_bytes')})", "{{role}}"),), unit="bytes"),
        Panel("Disk of the run's folder", _each("disk_free_bytes", "disk_total_bytes"), unit="bytes"),
    ),
    "Who is the bottleneck?": (
        Panel("Idle share of each role", ((series("idle_share"), "{{role}}"),), unit="percentunit",
              about="The bottleneck is the one near 0."),
        Panel("Idle share of each process", ((series("replica_idle_share"), "{{role}}/{{replica}}"),), unit="percentunit"),
        Panel("Where a step's time goes", ((series("phase_seconds"), "{{phase}}"),), unit="s"),
        Panel("Tokens a second while it worked", ((series("tokens_per_second"), "{{role}}"),)),
        Panel("Tokens a second of the run", ((series("trained_tokens_per_second"), "trained"),
                                             (f"sum by (role) (rate({series('tokens')}[$__rate_interval]))", "{{role}}"))),
        Panel("Queues", _each("queue_in_flight", "queue_buffer", "rollout_running", "rollout_waiting")),
        Panel("Weights to the engines", (*_each("weights_stage_seconds", "weights_load_seconds"),
                                         (f"histogram_quantile(0.9, sum by (le) (rate({_STOPPED}[$__rate_interval])))",
                                          "decoding stopped, 90 % below")), unit="s"),
        Panel("Latency of reward and reference", _each("latency_mean_seconds", "latency_max_seconds"), unit="s"),
    ),
}
