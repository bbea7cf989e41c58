"""What evaluations during PPO leave in the run's folder, a line a version that was evaluated.

metrics/held_out.jsonl and tensorboard/held_out: the numbers, at the version as their step. ppo/held_out.jsonl: the answers.
"""

import json
from pathlib import Path

from scale_rlhf.disk import writing
from scale_rlhf.orchestration.evaluations import Evaluation
from scale_rlhf.orchestration.run_folder import RunFolder, write_atomically
from scale_rlhf.telemetry.metrics import MetricsLog, read_jsonl, read_metrics

STAGE = "held_out"


class HeldOutLog:
    """versions: those that are there."""

    def __init__(self, folder: RunFolder, tokenizer, after: int):
        """after: version that the run goes on from; what the files tell of later ones is dropped, as they are made anew."""
        self.tokenizer, self.answers = tokenizer, folder.stage("ppo") / "held_out.jsonl"
        self.metrics = MetricsLog(folder, STAGE, after=after)
        self.versions = {line["step"] for line in read_metrics(self.metrics.path)}
        if self.answers.exists():
            kept = [line for line in read_jsonl(self.answers) if line["version"] in self.versions]
            write_atomically(self.answers, "".join(_line(line) for line in kept))

    def add(self, evaluation: Evaluation) -> str:
        """Keep it. Returns what there is to say of it in a few words."""
        numbers = evaluation.metrics()
        with writing(self.answers), open(self.answers, "a", encoding="utf-8") as file:
            file.writelines(_line(answer) for answer in self._answers(evaluation))
        self.metrics.log(evaluation.version, numbers)  # last: a version without its line here is evaluated again
        score = f", judge {numbers['evaluate/score']:.3f}" if "evaluate/score" in numbers else ""
        return f"held out at version {evaluation.version}: reward {numbers['evaluate/reward']:+.3f}{score}"

    def close(self) -> None:
        self.metrics.close()

    def _answers(self, evaluation: Evaluation) -> list[dict]:
        verdicts = evaluation.verdicts or [{}] * len(evaluation.answers)
        return [
            {"version": evaluation.version, "prompt": asked(sample), "response": self.tokenizer.decode(
                sample.response_ids, skip_special_tokens=True), "reward": reward, "ended": sample.ended}
            | {name: value for name, value in verdict.items() if value is not None}
            for sample, reward, verdict in zip(evaluation.answers, evaluation.rewards, verdicts, strict=True)
        ]


def asked(sample) -> str:
    """The last turn of the user."""
    return sample.prompt.row["messages"][-1]["content"]


def wanted(folder: RunFolder, every: int | None) -> bool:
    """Whether there is a log: where evaluations are asked for, or an earlier attempt at this run had some."""
    return every is not None or Path(folder.metrics(STAGE)).exists()


def _line(values: dict) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"
