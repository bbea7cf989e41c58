"""torch.distributed under DeepSpeed, joined by actors rather than by a launcher."""

import os
import socket
import warnings

from scale_rlhf.cluster.device import collective_backend


def free_port() -> int:
    """A TCP port that is free on this machine now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def join(rank: int, world: int, address: str, port: int, seconds: float) -> None:
    """Join the group of `world` ranks that meets at address:port; a collective that takes longer than `seconds` fails.

    Ray shows each process its own GPUs alone, so the local rank is always 0.
    """
    from datetime import timedelta

    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "MASTER_ADDR": address, "MASTER_PORT": str(port),
    }
    import deepspeed

    leave_out_shared_memory_op()
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 calls old: every rank would say so in the run's output.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    deepspeed.init_distributed(
        dist_backend=collective_backend(), auto_mpi_discovery=False, timeout=timedelta(seconds=seconds), verbose=False,
    )


def leave_out_shared_memory_op() -> None:
    # On CPU DeepSpeed compiles a shared-memory all-reduce (28 s, needs a compiler) and leaves 69 MB a rank in /dev/shm.
    # Tensor-parallel inference alone calls it. An empty list of usable operators leaves it out.
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().device_name() == "cpu":
        deepspeed.ops.__compatible_ops__ = {}
