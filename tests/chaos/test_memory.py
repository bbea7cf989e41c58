"""A run of hundreds of steps: after it has warmed up, no process grows, and neither does shared memory.

    MEMORY_READINGS=memory.json pytest -m long tests/chaos/test_memory.py      keeps every reading
"""

import json
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path

import psutil
import pytest

from tests.chaos.faults import TITLES, Run, make_home

STEPS = 500
EARLY, LATE = range(100, 201), range(400, 501)  # steps whose medians are compared
SHARE, FLOOR_MB = 0.03, 4.0  # what allocators may still take: of the early median, and on top
EVERY = 2.0  # seconds between readings
RAY = {"raylet": "raylet", "gcs_server": "gcs"}
SHARED = "/dev/shm/"

Reading = dict[str, float]  # MB by process or kind of shared memory, with "step"


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_nothing_grows(tmp_path, monkeypatch):
    """Every process of a role, Ray's own two, and the files in shared memory that any of them holds."""
    # oneDNN keeps a kernel for each shape of a batch that vLLM has computed, up to 1024 of them: 60 MB, and no leak.
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
    overrides = [f"ppo.steps={STEPS}", "ppo.prompts_per_step=4", "overlap.max_staleness=1", "checkpoint.save_every=20 steps"]
    run, readings = Run(make_home(tmp_path), "memory", *overrides), []
    try:
        while run.process.poll() is None:
            readings.append(read(run))
            time.sleep(EVERY)
        run.finish()
    finally:
        run.clean()
        if "MEMORY_READINGS" in os.environ:
            Path(os.environ["MEMORY_READINGS"]).write_text(json.dumps(readings))
    medians = compared(readings)
    print(table(medians))
    assert set(TITLES) | {"guardian", "raylet", "gcs", "plasma", "weights"} <= {name.split("/")[0] for name in medians}
    grown = {name: pair for name, pair in medians.items() if pair[1] - pair[0] > SHARE * pair[0] + FLOOR_MB}
    assert not grown, table(grown)


def read(run: Run) -> Reading:
    """Private memory of each process ("policy/0"), and the shared memory that they hold by kind."""
    steps, each, shared = run.steps(), defaultdict(list), {}
    try:
        processes = [psutil.Process(run.process.pid), *psutil.Process(run.process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return {"step": 0}
    for process in processes:
        try:
            if role := _role(process, run.process.pid):
                memory = process.memory_info()
                each[role].append((memory.rss - memory.shared) / 1e6)
            shared |= _shared_files(process.pid)
        except (psutil.Error, OSError):
            continue  # it has just ended
    by_kind = defaultdict(float)
    for path, size in shared.values():
        by_kind["plasma" if "plasma" in path else "weights" if "-weights-" in path else "other shared memory"] += size
    reading = {f"{role}/{place}": size for role, sizes in each.items() for place, size in enumerate(sizes)}
    return {"step": max(steps, default=0)} | reading | by_kind


def compared(readings: list[Reading]) -> dict[str, tuple[float, float]]:
    """(early median, late median) in MB, of what is there in both."""
    sizes = [{name: [one[name] for one in readings if one["step"] in steps and name in one]
              for name in {name for one in readings for name in one} - {"step"}} for steps in (EARLY, LATE)]
    return {name: (statistics.median(found), statistics.median(sizes[1][name]))
            for name, found in sorted(sizes[0].items()) if len(found) >= 5 and len(sizes[1][name]) >= 5}


def table(medians: dict[str, tuple[float, float]]) -> str:
    return "\n".join(f"{name:22} {early:9.1f} MB {late:9.1f} MB {late - early:+8.1f} MB"
                     for name, (early, late) in medians.items())


def _role(process: psutil.Process, started: int) -> str | None:
    if process.pid == started:
        return "guardian"
    if (name := process.name()) in RAY:
        return RAY[name]
    title = " ".join(process.cmdline())
    return next((role for role, start in TITLES.items() if title.startswith(start)), None)


def _shared_files(pid: int) -> dict[str, tuple[str, float]]:
    """{inode: (path, MB that it takes)} of the files in shared memory that a process has open or mapped.

    Others' runs hold files there too, so how full it is as a whole says nothing.
    """
    found = {}
    for kind in ("fd", "map_files"):
        folder = Path(f"/proc/{pid}/{kind}")
        for place in os.listdir(folder):
            try:
                path = os.readlink(folder / place)
                if path.startswith(SHARED):
                    there = os.stat(folder / place)
                    found[str(there.st_ino)] = path, there.st_blocks * 512 / 1e6
            except OSError:
                continue
    return found
