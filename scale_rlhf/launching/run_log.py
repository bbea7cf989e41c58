"""What a run's log says of it: stage, step, folder. Reads what stages/runner.py and telemetry/progress.py write."""

import re
from dataclasses import dataclass

_HEAD = re.compile(r"^\S+: (?:(?:base|sft|reward|ppo|evaluate)(?:, )?)+ in (/.+)$")
_STAGE = re.compile(r"^(base|sft|reward|ppo|evaluate) ─+$")
_STEP = re.compile(r"^[a-z][a-z: ]* [\d.e+]+/[\d.e+]+(?:, .*)?$")


@dataclass(frozen=True)
class Progress:
    """folder: the run's, on the cluster. stage: the last that began. step: its last line of progress. last: the very last."""

    folder: str | None = None
    stage: str | None = None
    step: str | None = None
    last: str | None = None


def progress(log: str) -> Progress:
    """What can be known from a run's output, whole or its beginning."""
    folder = stage = step = last = None
    for line in (line.rstrip() for line in log.splitlines()):
        if found := _HEAD.match(line):
            folder = found[1]
        elif found := _STAGE.match(line):
            stage, step = found[1], None
        elif _STEP.match(line):
            step = line
        last = line or last
    return Progress(folder, stage, step, last)
