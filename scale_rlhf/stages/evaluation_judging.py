"""The judge of true quality: found by its import path, asked with text alone, used by the evaluation and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import groupby
from typing import TYPE_CHECKING, Any

from scale_rlhf.errors import ConfigError, RunError

if TYPE_CHECKING:
    from scale_rlhf.config.schema import RunConfig

PRACTICE_JUDGE = "scale_rlhf.data.practice.truth:judge"


@dataclass(frozen=True)
class Verdict:
    """True quality of one answer; all but the score may be unknown to a judge."""

    score: float
    helpful: float | None = None
    honest: float | None = None
    harmless: float | None = None
    right_form: float | None = None  # 1 or 0


class Judge:
    """`path`: package.module:name of a function (prompt: str, response: str) -> an object or a dict.

    It has `score`, and where it knows them `helpful`, `honest`, `harmless` (0 to 1) and `right_form` (bool). A function
    best_attainable(prompt) -> float in the same module, if there is one, gives the score of the best answer there is.
    """

    def __init__(self, path: str):
        self.path = path
        module, self._function = _imported(path)
        self._best: Callable[[str], float] | None = getattr(module, "best_attainable", None)

    def __call__(self, prompt: str, response: str) -> Verdict:
        """Raises RunError that quotes the prompt where the judge fails or returns no finite score."""
        said = self._asked(self._function, prompt, response)
        fields = said if isinstance(said, dict) else {name: getattr(said, name, None) for name in Verdict.__dataclass_fields__}
        numbers = {name: None if fields.get(name) is None else _number(fields[name]) for name in Verdict.__dataclass_fields__}
        if numbers["score"] is None:
            raise RunError(
                f"evaluation.judge {self.path}: expected an object or a dict with a finite number `score`; it returned {said!r}"
            )
        return Verdict(**numbers)

    def best(self, prompt: str) -> float | None:
        """The score of the best answer that there is, where the judge's module knows it."""
        return None if self._best is None else float(self._asked(self._best, prompt))

    def _asked(self, function: Callable, *texts: str) -> Any:
        try:
            return function(*texts)
        except Exception as error:
            hint = " The practice world's judge knows the practice world's prompts alone." if self.path == PRACTICE_JUDGE else ""
            raise RunError(
                f"evaluation.judge {self.path} failed on the prompt {texts[0]!r}: {type(error).__name__}: {error}.{hint}"
            ) from error


def find_judge(config: RunConfig) -> Judge | None:
    """The judge that the configuration names, else the practice world's where there is one, else none."""
    path = config.evaluation.judge or (PRACTICE_JUDGE if config.data.practice else None)
    return Judge(path) if path else None


def means(verdicts: Iterable[Verdict]) -> dict[str, float | None]:
    """Mean of each field over the answers for which the judge knows it."""
    rows = [asdict(verdict) for verdict in verdicts]
    return {name: mean([row[name] for row in rows]) for name in Verdict.__dataclass_fields__}


def mean(numbers: Iterable[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) / len(known) if known else None


def true_score_curve(
    samples: Sequence[dict], judge: Judge, told: Callable[[int], None] = lambda n: None
) -> Iterator[tuple[int, dict]]:
    """(step, {"true/score", …, "reward/score_mean", "samples"}) of every step of PPO, from the samples that it was trained on.

    samples: rows of ppo/samples.jsonl. Where a resumed run wrote a sample again, the later row counts. told: is called
    with the number of samples of each step that was judged.
    """
    kept = {(row["step"], row["index"]): row for row in samples}
    for step, group in groupby(sorted(kept), key=lambda place: place[0]):
        rows = [kept[place] for place in group]
        judged = means(judge(row["prompt"], row["response"]) for row in rows)
        told(len(rows))
        values = {f"true/{name}": value for name, value in judged.items() if value is not None}
        yield step, values | {"reward/score_mean": mean(row.get("score") for row in rows), "samples": len(rows)}


def _imported(path: str) -> tuple[Any, Callable]:
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"evaluation.judge: {path}: the module cannot be imported: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"evaluation.judge: expected a function {name!r} in {module_name}, found {type(function).__name__}")
    return module, function


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None  # NaN fails the comparison
