"""One rank of a frozen model that is sharded by DeepSpeed ZeRO-3: parameters are gathered layer by layer as they are used."""

import os
import socket
from collections.abc import Callable

from torch import nn

from scale_rlhf.cluster.device import collective_backend
from scale_rlhf.models.loading import sharded
from scale_rlhf.training import process_group

LIMIT = 1800.0  # seconds that a collective may take: callers have deadlines of their own, which are shorter


def load_sharded(
    load: Callable[[], nn.Module], *, rank: int, world: int, address: str, port: int, dtype: str,
    listener: socket.socket | None = None,
) -> nn.Module:
    """Join the group and load this rank's share; blocks until all `world` ranks do the same.

    listener: rank 0's, at address:port; None on the others. Returns a DeepSpeed engine, called like the model. All ranks must
    make the same number of forwards.
    """
    os.environ.update(
        RANK=str(rank), LOCAL_RANK="0", WORLD_SIZE=str(world), MASTER_ADDR=address, MASTER_PORT=str(port),
        LOCAL_SIZE="0",  # ≠ WORLD_SIZE: DeepSpeed then leaves out its 69 MB a rank in /dev/shm, which nothing here uses
    )
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # nor is that op compiled, which takes half a minute
    process_group.meet(rank, world, address, port, LIMIT, listener)
    deepspeed.init_distributed(dist_backend=collective_backend(), auto_mpi_discovery=False)
    settings = _settings(dtype)
    with sharded(settings):
        model = load()
    engine, *_ = deepspeed.initialize(model=model, config=settings)
    engine.eval()
    return engine


def _settings(dtype: str) -> dict:
    return {
        "train_micro_batch_size_per_gpu": 1,  # asked for, unused: nothing is trained
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": 10_000,  # smaller ones (norms, biases) stay whole on every rank
        },
        "bf16": {"enabled": dtype == "bfloat16"},
    }
