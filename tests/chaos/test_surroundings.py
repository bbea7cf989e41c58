"""A run's surroundings fail for real: disks that are full or read-only, full shared memory, ports and files that others take.

Each ends with a message that says what and where, and what was saved before is as it was.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from scale_rlhf.cli import app
from scale_rlhf.config.load import load_config
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import DiskError, RunError
from scale_rlhf.experience.buffer import Scored
from scale_rlhf.experience.prompts import PromptStream
from scale_rlhf.experience.sample import Sample
from scale_rlhf.models.loading import load_causal, save_whole, tokenizer_of
from scale_rlhf.orchestration import checksums, ledger
from scale_rlhf.orchestration.loop import Step
from scale_rlhf.orchestration.loop_state import LoopState
from scale_rlhf.orchestration.record import Record
from scale_rlhf.orchestration.run_folder import RunFolder, write_atomically
from scale_rlhf.stages import runner
from scale_rlhf.telemetry.metrics import MetricsLog, read_metrics
from scale_rlhf.telemetry.spans import Span
from scale_rlhf.telemetry.timeline import Timeline, read_lanes
from scale_rlhf.training.process_group import meeting_place
from scale_rlhf.weights import shared_memory
from scale_rlhf.weights.network import Server
from tests.chaos.faults import ROOT, Run, lines, make_home
from tests.chaos.small_disk import small_disk

LOOPBACK = "127.0.0.1"
PROMPTS = PromptStream([[1, 2], [3]], [{"messages": [{"content": "say"}]}] * 2, responses=1, seed=0)
NUMBERS = {"reward/score_mean": 0.5, "kl/reference_mean": 0.1, "response/tokens_mean": 3.0, "time/step": 0.2, "idle/policy": 0.1}
HOLDS = [sys.executable, "-c", """
import sys
from scale_rlhf.training.process_group import meet, meeting_place
import torch
rank, port = int(sys.argv[1]), int(sys.argv[2])
listener = meeting_place("127.0.0.1") if rank == 0 else None
if rank == 0:
    port = listener.getsockname()[1]
    print(port, flush=True)
    sys.stdin.readline()
meet(rank, 2, "127.0.0.1", port, 60, listener)
one = torch.ones(1)
torch.distributed.all_reduce(one)
print("met", int(one), flush=True)
"""]


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        yield disk


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("surroundings"))


@pytest.fixture
def no_ray(monkeypatch):
    """Nothing may start."""

    def never(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(runner, "session", never)


def command(home: Path, *words: str) -> str:
    """What `scale-rlhf …` says where it ends with the status of what a person can mend."""
    here = os.getcwd()
    os.chdir(home)  # the configuration names files of that folder
    try:
        done = CliRunner().invoke(app, [str(word) for word in words])
    finally:
        os.chdir(here)
    assert done.exit_code == 2, (done.exception, done.output)
    assert "Traceback" not in done.stderr
    return done.stderr


# ── a disk that is full ──────────────────────────────────────────────────────────────────────────────────────────────────

def test_a_file_that_does_not_fit_stays_as_it_was(disk):
    path = disk.path / "run.json"
    write_atomically(path, "old")
    disk.fill()
    with pytest.raises(DiskError, match=rf"{path} cannot be written: the disk is full \(0 of its 4 MiB are free\)"):
        write_atomically(path, "new" * 9999)
    assert disk.files() == {"run.json": b"old"}


def test_a_run_that_cannot_be_begun_leaves_nothing(disk):
    disk.fill(left=4096)  # run.json fits, and no more
    with pytest.raises(DiskError, match="the disk is full"):
        RunFolder.create(RunConfig(run={"name": "toy", "folder": str(disk.path)}))
    assert disk.files() == {} and not (disk.path / "toy").exists()


def record(disk) -> Record:
    folder = RunFolder.create(RunConfig(run={"name": "toy", "folder": str(disk.path)}))
    return Record(folder.config(), folder, SimpleNamespace(decode=lambda ids, **_: "word " * len(ids)))


def step(version: int, size: int = 400) -> Step:
    ids = np.arange(size, dtype=np.int32)
    floats = np.zeros(size, dtype=np.float32)
    one = Scored(Sample(PROMPTS[version - 1], ids, floats, np.full(size, version - 1, np.int32), ended=True), 0.5, floats)
    return Step(version, [one], dict(NUMBERS), {"policy/0": [Span("update", version, version + 0.5)]})


def test_a_step_that_cannot_be_told_ends_the_run_and_the_ones_before_can_be_gone_on_from(disk):
    made, told = record(disk), 0
    with pytest.raises(DiskError, match=f"{made.folder.path}/.* cannot be written: the disk is full"), made:
        made.go_back(LoopState())
        for told in range(40):  # noqa: B007 - how far it came
            if told == 5:
                disk.fill(left=8192)
            made.step(step(told + 1))
    assert 5 <= told < 40
    disk.make_room()
    with record_again(made) as again:
        again.go_back(LoopState(version=4, admitted=4))
        again.step(step(5))
        assert again.account(5)["trained"] == 5
    assert [line["step"] for line in read_metrics(made.folder.metrics("ppo"))] == [1, 2, 3, 4, 5]
    assert [line["index"] for line in lines(made.place / ledger.TRAINED)] == [0, 1, 2, 3, 4]
    assert [span.start for span in read_lanes(made.folder.timeline)["policy/0"]][:4] == [1, 2, 3, 4]


def record_again(made: Record) -> Record:
    return Record(made.config, made.folder, made.tokenizer)


def test_going_back_on_a_full_disk_undoes_nothing(disk):
    with record(disk) as made:
        made.go_back(LoopState())
        for version in range(1, 6):
            made.step(step(version))
    disk.fill()
    before = disk.files()
    with pytest.raises(DiskError, match="the disk is full"), record_again(made) as again:
        again.go_back(LoopState(version=2, admitted=2))
    assert disk.files() == before
    disk.make_room()
    with record_again(made) as again:
        again.go_back(LoopState(version=2, admitted=2))
    assert [line["index"] for line in lines(made.place / ledger.TRAINED)] == [0, 1]
    assert [line["index"] for line in lines(made.place / ledger.VOID)] == [2, 3, 4]


def test_a_timeline_that_cannot_be_written_again_stays(disk):
    path = disk.path / "timeline.json"
    timeline = Timeline(path)
    timeline.add({"policy/0": [Span("update", n, n + 0.5) for n in range(100)]})
    timeline.close()
    disk.fill()
    before = disk.files()["timeline.json"]
    with pytest.raises(DiskError, match=f"{path} cannot be written: the disk is full"):
        Timeline(path, goes_on=True)
    assert disk.files()["timeline.json"] == before


def test_metrics_of_any_stage(disk):
    folder = RunFolder.create(RunConfig(run={"name": "toy", "folder": str(disk.path)}))
    said = f"{folder.path}/.* cannot be written: the disk is full"
    with pytest.raises(DiskError, match=said), MetricsLog(folder, "sft") as log:
        log.log(1, {"loss": 1.0})
        disk.fill()
        for number in range(2, 500):
            log.log(number, {"loss": 1.0, "more": 9.0})
    disk.make_room()
    with MetricsLog(folder, "sft", after=1) as log:
        log.log(2, {"loss": 0.5})
    assert [line["loss"] for line in read_metrics(folder.metrics("sft"))] == [1.0, 0.5]


def test_a_model_that_does_not_fit_leaves_the_one_before(disk, home):
    model, tokenizer = load_causal(str(home / "model")), tokenizer_of(str(home / "model"))
    save_whole(model, disk.path / "ppo", tokenizer)
    disk.fill(left=4096)
    before = disk.files()
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    with pytest.raises(DiskError, match=f"{disk.path}/ppo cannot be written: the disk is full"):
        save_whole(model, disk.path / "ppo", tokenizer)
    assert disk.files() == before
    disk.make_room()
    save_whole(model, disk.path / "ppo", tokenizer)
    assert disk.files() != before and disk.files().keys() == before.keys()


@pytest.mark.parametrize("error", [None, ValueError("something else"), OSError(28, "No space left on device")])
def test_a_stage_that_fails_on_a_full_disk_is_still_told_of(disk, tmp_path, monkeypatch, error):
    """Neither its error nor its state can be written then."""
    module, works = ModuleType("stage"), []

    def stage(config, folder):
        if works:
            return {}
        disk.fill()
        raise error or DiskError("samples.jsonl cannot be written: the disk is full")

    @contextmanager
    def session(*_, **__):
        yield None

    module.run = stage
    monkeypatch.setitem(sys.modules, "scale_rlhf.stages.sft", module)
    monkeypatch.setattr(runner, "session", session)
    rows = [{"prompt": prompt, "response": "b"} for prompt in "ac"]  # one of which is held out
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_home(tmp_path)
    config = RunConfig(run={"name": "toy", "folder": str(disk.path), "stages": ["sft"]}, cluster={"cpus": 8},
                       model={"path": str(tmp_path / "model")}, data={"instructions": str(tmp_path / "pairs.jsonl")})
    with pytest.raises(RunError) as caught:
        runner.run(config)
    said = str(caught.value)
    assert ("something else" if isinstance(error, ValueError) else "cannot be written: the disk is full") in said
    assert f"scale-rlhf resume {disk.path}/toy" in said
    folder = RunFolder.open(disk.path / "toy")
    assert folder.stages_left() == ["sft"]
    disk.make_room()
    works.append(True)
    runner.resume(folder.path)
    assert folder.stages_left() == []


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_disk_that_fills_up_during_a_run(home, tmp_path):
    """There is room for one checkpoint. A file of the data goes too: it is in memory, and missed when the run is resumed."""
    prompts = home / "prompts.jsonl"
    with small_disk(tmp_path / "disk", "3m") as disk:
        run = Run(home, "full", f"run.folder={disk.path}", "ppo.steps=8")
        run.folder = disk.path / "full"
        try:
            run.until(run.steps)
            kept = prompts.read_text()
            prompts.unlink()
            assert run.process.wait(300) == 2
            whole = run.folder / "ppo" / "checkpoints" / "step-000002"
            assert f"{whole.parent}/.step-000004/" in run.said and "cannot be written: the disk is full" in run.said
            assert "The checkpoints before it are whole" in run.said
            assert f"scale-rlhf resume {run.folder}" in run.said and "Traceback" not in run.said
            assert checksums.faults(whole) == [] and len(run.steps()) >= 4
            assert [path.name for path in whole.parent.iterdir()] == [whole.name]
            before = disk.files()
            assert "data.prompts: file prompts.jsonl does not exist" in command(home, "resume", run.folder)
            assert disk.files() == before
            prompts.write_text(kept)
            disk.resize("50m")
            run.resume()
            assert "ppo goes on from step 2" in run.finish()
        finally:
            run.clean()
        assert run.steps() == list(range(1, 9)) and ledger.account(run.folder / "ppo", 8 * 6)["trained"] == 8 * 6
        assert (run.folder / "models" / "ppo" / "model.safetensors").exists()


# ── a disk that is read-only ─────────────────────────────────────────────────────────────────────────────────────────────

def test_a_read_only_folder_is_refused_before_anything_starts(home, disk, no_ray):
    (disk.path / "empty").mkdir()
    disk.read_only()
    new = command(home, "run", "toy.yaml", f"run.folder={disk.path}")
    assert f"run.folder: {disk.path}/toy cannot be made: Read-only file system" in new
    there = command(home, "run", "toy.yaml", f"run.folder={disk.path}", "run.name=empty")
    assert f"{disk.path}/empty/run.json cannot be written: the file system is read-only" in there


def test_a_run_in_a_folder_that_is_now_read_only_is_not_resumed(home, disk, no_ray):
    here = os.getcwd()
    os.chdir(home)
    folder = RunFolder.create(load_config(Path("toy.yaml"), [f"run.folder={disk.path}"]))
    os.chdir(here)
    disk.read_only()
    before = disk.files()
    assert "cannot be written: the file system is read-only" in command(home, "resume", folder.path)
    assert disk.files() == before


# ── shared memory that is full ───────────────────────────────────────────────────────────────────────────────────────────

def test_weights_that_do_not_fit_into_shared_memory(disk, monkeypatch):
    monkeypatch.setattr(shared_memory, "FOLDER", disk.path)
    said = rf"weights: {disk.path} has 3.1 MB left, and two versions take 6.3 MB.*rollout.weight_transfer"
    (disk.path / "others").write_bytes(b"x" * (1 << 20))
    with pytest.raises(RunError, match=said):
        shared_memory.SharedFiles("toy", 3 << 20)
    assert list(disk.files()) == ["others"]
    files = shared_memory.SharedFiles("toy", 1 << 20)
    files.next()[0][:] = b"y" * (1 << 20)
    files.close()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_whose_shared_memory_is_full(home, tmp_path):
    """In a mount namespace of its own, with /dev/shm of 300 KB. Weights over the network need none of it."""
    with small_disk(tmp_path / "allowed", "1m"):
        pass  # or skips
    alone = ["unshare", "--mount", "bash", "-c", 'mount -t tmpfs -o size=300k tmpfs /dev/shm && exec "$@"', "-"]

    def ends(*words: str) -> tuple[int, str]:
        done = subprocess.run([*alone, sys.executable, "-m", "scale_rlhf.cli", *words], cwd=home, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        return done.returncode, done.stdout

    status, said = ends("run", "toy.yaml", f"run.folder={tmp_path}", "run.name=shm", "ppo.steps=2")
    assert status == 2 and "Traceback" not in said, said
    assert "weights: /dev/shm has 0." in said and "rollout.weight_transfer=network" in said
    status, said = ends("resume", str(tmp_path / "shm"), "rollout.weight_transfer=network")
    assert status == 0, said


# ── ports that others take ───────────────────────────────────────────────────────────────────────────────────────────────

def taken(port: int) -> bool:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind((LOOPBACK, port))
        except OSError:
            return True
    return False


def test_the_port_of_a_group_is_taken_until_its_ranks_meet():
    """Another process tries to take it in between, and cannot."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    first = subprocess.Popen([*HOLDS, "0", "0"], **pipes)
    try:
        port = int(first.stdout.readline())
        assert taken(port)
        second = subprocess.Popen([*HOLDS, "1", str(port)], **pipes)
        first.stdin.write("go\n")
        first.stdin.flush()
        assert [one.communicate(timeout=120)[0].strip().splitlines()[-1] for one in (first, second)] == ["met 2"] * 2
    finally:
        first.kill()


def test_nobody_can_take_the_port_of_the_weights():
    with meeting_place(LOOPBACK) as place:
        assert taken(place.getsockname()[1])
    server = Server(LOOPBACK, seconds=2)
    assert taken(server.source.port)
    server.close()


def test_ray_where_its_port_is_taken_and_its_store_is_too_small():
    """The dashboard takes another port than 8265, whoever has that. What is larger than the store goes by the disk."""
    script = """
from scale_rlhf.cluster.processes import ProcessWatch
from scale_rlhf.cluster.ray_cluster import session
from scale_rlhf.config.schema import RunConfig
config = RunConfig(cluster={"cpus": 1, "object_store_gb": 0.08, "dashboard": True})
with ProcessWatch() as watch, session(config, watch) as address:
    import numpy, ray
    kept = [ray.put(numpy.full(20_000_000, number, dtype="float64")) for number in range(2)]  # 160 MB each
    print(address, *(ray.get(one)[-1] for one in kept))
"""
    with socket.socket() as mine:
        try:
            mine.bind((LOOPBACK, 8265))
            mine.listen()
        except OSError:
            pass  # somebody has it, which is as good
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200,
                              env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    address, *kept = done.stdout.split()
    assert address.startswith("http://127.0.0.1:") and not address.endswith(":8265") and kept == ["0.0", "1.0"]


# ── files that are deleted ───────────────────────────────────────────────────────────────────────────────────────────────

def test_what_was_deleted_before_a_resume_is_named(home, tmp_path, no_ray):
    mine = shutil.copytree(home, tmp_path / "home", ignore=shutil.ignore_patterns("*.log"))
    here = os.getcwd()
    os.chdir(mine)
    folder = RunFolder.create(load_config(Path("toy.yaml"), [f"run.folder={tmp_path}", f"model.path={mine / 'model'}"]))
    os.chdir(here)
    before = (folder.path / "run.json").read_text()
    (mine / "prompts.jsonl").rename(mine / "elsewhere.jsonl")
    assert f"data.prompts: file prompts.jsonl does not exist (looked in {mine})" in command(mine, "resume", folder.path)
    (mine / "elsewhere.jsonl").rename(mine / "prompts.jsonl")
    shutil.rmtree(mine / "model")
    said = command(mine, "resume", folder.path)
    assert "model.path" in said and str(mine / "model") in said
    assert (folder.path / "run.json").read_text() == before


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_model_and_the_data_may_go_while_a_run_goes_on(tmp_path):
    home = make_home(tmp_path)
    run = Run(home, "gone", "ppo.steps=4")
    try:
        run.until(run.steps)
        shutil.rmtree(home / "model")
        (home / "prompts.jsonl").unlink()
        run.finish()
    finally:
        run.clean()
    assert run.steps() == [1, 2, 3, 4]
    tokenizer_of(str(run.folder / "models" / "ppo"))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_an_engine_that_dies_when_the_model_is_gone(tmp_path):
    """It cannot be replaced; the message names the folder, and once that is back the run goes on."""
    home = make_home(tmp_path)
    run = Run(home, "gone", "ppo.steps=40", "recovery.restarts=2")
    try:
        run.until(lambda: len(run.steps()) >= 3)
        (home / "model").rename(home / "elsewhere")
        run.send("rollout", signal.SIGKILL)
        assert run.process.wait(400) == 2
        assert f"{home / 'model'}: expected a model folder with a config.json, found none" in run.said
        assert f"scale-rlhf resume {run.folder}" in run.said
        assert "Traceback" not in run.said, run.said[-3000:]
        (home / "elsewhere").rename(home / "model")
        run.resume("ppo.steps=40")
        run.finish()
    finally:
        run.clean()
    assert run.steps() == list(range(1, 41)) and ledger.account(run.folder / "ppo", 40 * 6)["trained"] == 40 * 6
