"""Which prompt was trained when: the lines of ppo/samples.jsonl and ppo/filtered.jsonl, one a sample, by its index.

Both tell the history that led to the newest version. When a run goes back to a checkpoint, the lines of what that undid
are moved to ppo/void.jsonl. So at any moment: admitted = lines + in flight, and no index is there twice.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from scale_rlhf.errors import RunError
from scale_rlhf.orchestration.loop_state import LoopState
from scale_rlhf.orchestration.run_folder import write_atomically
from scale_rlhf.telemetry.metrics import read_jsonl

TRAINED, FILTERED, VOID = "samples.jsonl", "filtered.jsonl", "void.jsonl"


def go_back(folder: Path, state: LoopState) -> int:
    """Make the files of `folder` those of `state`: what came after it is void. Returns how many samples that were."""
    open_again, undone = {index for index, _ in state.in_flight}, 0
    for name in (TRAINED, FILTERED):
        lines = read_jsonl(folder / name)
        kept = [line for line in lines if line["index"] < state.admitted and line["index"] not in open_again]
        if len(kept) < len(lines):
            there = {line["index"] for line in kept}
            void = [{"undone_by_going_back_to": state.version} | line for line in lines if line["index"] not in there]
            _replace(folder / VOID, read_jsonl(folder / VOID) + void)
            undone += len(void)
        _replace(folder / name, kept)
    return undone


def account(folder: Path, admitted: int, in_flight: Iterable[int] = ()) -> dict[str, int]:
    """{"trained", "filtered", "void"} counts. Raises RunError where a sample is missing, or there twice."""
    trained, filtered = ([line["index"] for line in read_jsonl(folder / name)] for name in (TRAINED, FILTERED))
    found = sorted([*trained, *filtered, *in_flight])
    if found != list(range(admitted)):
        twice = sorted({a for a, b in zip(found, found[1:], strict=False) if a == b})
        missing = sorted(set(range(admitted)) - set(found))
        raise RunError(f"{folder}: samples are not accounted for: of {admitted} admitted, missing {missing[:5]}, twice "
                       f"{twice[:5]}. This is a fault of the program; the files there say what was trained")
    return {"trained": len(trained), "filtered": len(filtered), "void": len(read_jsonl(folder / VOID))}


def _replace(path: Path, lines: list[dict]) -> None:
    """The file is the old one or the new one: a line cut in the middle would make all of it unreadable."""
    write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
