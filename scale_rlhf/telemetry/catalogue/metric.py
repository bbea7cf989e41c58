"""A metric: its key in metrics/STAGE.jsonl, its name in Prometheus, what it says, what is normal, and what to do otherwise."""

import re
from dataclasses import dataclass
from functools import cached_property

ROLES = ("rollout", "reward", "reference", "policy", "value")
_PATTERNS = {"role": "(?P<role>rollout|reward|reference|policy|value)(?:_server)?", "age": r"(?P<age>\d+)",
             "source": "(?P<source>[a-z][a-z0-9_]*)"}


@dataclass(frozen=True)
class Metric:
    """One row of the catalogue.

    key: of a line; {role}, {age} and {source} stand for what becomes a label of that name. "": no line has it, and it is
    recorded as it changes. name: after `ray_scale_rlhf_`; rows of the same name differ in their `fixed` labels.
    labels: those of a metric without a key. stages: whose lines have it. bounds: of a histogram's buckets.
    """

    key: str
    name: str
    about: str
    normal: str
    cure: str
    kind: str = "gauge"  # or counter, histogram
    fixed: tuple[tuple[str, str], ...] = ()
    labels: tuple[str, ...] = ()
    stages: tuple[str, ...] = ("ppo",)
    bounds: tuple[float, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """Labels beside `run`."""
        supervised = ("stage",) if self.key and len(self.stages) > 1 else ()
        return (*re.findall(r"{(\w+)}", self.key), *(name for name, _ in self.fixed), *supervised, *self.labels)

    @property
    def exported(self) -> str:
        """Its name in Prometheus; of a histogram the count, of which rates can be taken."""
        return f"ray_scale_rlhf_{self.name}" + {"counter": "_total", "histogram": "_count"}.get(self.kind, "")

    def labels_of(self, key: str, stage: str) -> dict[str, str] | None:
        """The labels of a key of a stage's line; None where it is another metric's."""
        if stage not in self.stages or not (found := self._pattern.fullmatch(key)):
            return None
        return found.groupdict() | dict(self.fixed) | ({"stage": stage} if "stage" in self.label_names else {})

    @cached_property
    def _pattern(self) -> re.Pattern:
        parts = re.split(r"{(\w+)}", self.key)
        return re.compile("".join(_PATTERNS[part] if place % 2 else re.escape(part) for place, part in enumerate(parts)))
