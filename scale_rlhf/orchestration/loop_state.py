"""What the loop itself must remember: where it is, and the samples in flight. Prompts follow from their index."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from scale_rlhf.disk import writing
from scale_rlhf.experience.buffer import Scored
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Prompt, Sample

_ARRAYS = ("response_ids", "logprobs", "versions")


@dataclass(frozen=True)
class LoopState:
    """A moment between two updates. Samples that were being generated or scored are known by index, and start again."""

    version: int = 0  # of the policy
    kl_coefficient: float = 0.0
    admitted: int = 0  # also the index of the next sample: the cursor in the data
    filtered: int = 0
    in_flight: list[tuple[int, int]] = field(default_factory=list)  # (index, version of admission), oldest first
    scored: list[Scored] = field(default_factory=list)  # of those, what need not be done again
    probe: list[Sample] = field(default_factory=list)  # what engine and trainer are compared on

    def write(self, folder: Path) -> None:
        """loop.json and samples.safetensors."""
        numbers = {name: getattr(self, name) for name in ("version", "kl_coefficient", "admitted", "filtered", "in_flight")}
        described = {
            "scored": [{"index": one.sample.index, "ended": one.sample.ended, "score": one.score, "baseline": one.baseline}
                       for one in self.scored],
            "probe": [{"index": sample.index, "ended": sample.ended} for sample in self.probe],
        }
        arrays = {f"probe/{i}/prompt": sample.prompt.token_ids for i, sample in enumerate(self.probe)}
        arrays |= {f"scored/{i}/reference": one.reference_logprobs for i, one in enumerate(self.scored)}
        for kind, samples in (("scored", [one.sample for one in self.scored]), ("probe", self.probe)):
            arrays |= {f"{kind}/{i}/{name}": getattr(sample, name) for i, sample in enumerate(samples) for name in _ARRAYS}
        with writing(folder / "samples.safetensors"):
            save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, folder / "samples.safetensors")
        with writing(folder / "loop.json"):
            (folder / "loop.json").write_text(json.dumps(numbers | described) + "\n")

    @classmethod
    def read(cls, folder: Path, prompts: PromptStream) -> "LoopState":
        """What `write` wrote into a folder whose checksums were verified. prompts: of the same data and seed."""
        values = json.loads((folder / "loop.json").read_text())
        arrays = load_file(folder / "samples.safetensors")
        probe = [_sample(arrays, f"probe/{i}", Prompt(one["index"], -1, arrays[f"probe/{i}/prompt"]), one["ended"])
                 for i, one in enumerate(values.pop("probe"))]
        scored = [
            Scored(_sample(arrays, f"scored/{i}", prompts[one["index"]], one["ended"]), one["score"],
                   arrays[f"scored/{i}/reference"], one.get("baseline"))
            for i, one in enumerate(values.pop("scored"))
        ]
        values["in_flight"] = [tuple(one) for one in values["in_flight"]]
        return cls(**values, scored=scored, probe=probe)

    def unfinished(self) -> Sequence[int]:
        """Indices of the samples that start again."""
        there = {one.sample.index for one in self.scored}
        return [index for index, _ in self.in_flight if index not in there]


def _sample(arrays: dict, key: str, prompt: Prompt, ended: bool) -> Sample:
    return Sample(prompt, *(arrays[f"{key}/{name}"] for name in _ARRAYS), ended)
