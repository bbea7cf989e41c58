"""torch.distributed under DeepSpeed, joined by actors rather than by a launcher."""

import os
import socket
import warnings
from datetime import timedelta

import psutil

from scale_rlhf.cluster.device import collective_backend


def free_port() -> int:
    """A TCP port that is free on this machine now; nothing keeps it free."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def meeting_place(address: str) -> socket.socket:
    """Where rank 0 will listen: a port that is taken from now on, so that nobody else can take it before the group meets."""
    return socket.create_server((address, 0), backlog=1024)


def join(rank: int, world: int, address: str, port: int, seconds: float, listener: socket.socket | None = None) -> None:
    """Join the group of `world` ranks that meets at address:port; a collective that takes longer than `seconds` fails.

    listener: rank 0's `meeting_place`; None on the others. Ray shows each process its own GPUs alone, so the local rank is
    always 0.
    """
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "MASTER_ADDR": address, "MASTER_PORT": str(port),
    }
    import deepspeed

    leave_out_shared_memory_op()
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 calls old: every rank would say so in the run's output.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    meet(rank, world, address, port, seconds, listener)
    deepspeed.init_distributed(
        dist_backend=collective_backend(), auto_mpi_discovery=False, timeout=timedelta(seconds=seconds), verbose=False,
    )


def meet(rank: int, world: int, address: str, port: int, seconds: float, listener: socket.socket | None = None) -> None:
    """torch's group for `join`, which DeepSpeed then takes as it is: left to itself, DeepSpeed looks for a free port too late."""
    from torch import distributed

    if interface := _interface_towards(address, port):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)  # else the one that this host's name means, loopback on many
    limit = timedelta(seconds=seconds)
    held = {} if listener is None else {"master_listen_fd": listener.detach()}
    store = distributed.TCPStore(address, port, world, rank == 0, limit, wait_for_workers=False, **held)
    distributed.init_process_group(collective_backend(), store=store, rank=rank, world_size=world, timeout=limit)


def _interface_towards(address: str, port: int) -> str | None:
    """Name of the network interface by which that address is reached from here."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))  # sends nothing
        mine = probe.getsockname()[0]
    return next((name for name, found in psutil.net_if_addrs().items() if mine in (one.address for one in found)), None)


def leave_out_shared_memory_op() -> None:
    # On CPU DeepSpeed compiles a shared-memory all-reduce (28 s, needs a compiler) and leaves 69 MB a rank in /dev/shm.
    # Tensor-parallel inference alone calls it. An empty list of usable operators leaves it out.
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().device_name() == "cpu":
        deepspeed.ops.__compatible_ops__ = {}
