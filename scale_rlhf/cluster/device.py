"""The one place that chooses device, collective backend and the environment of a process."""

import os

import torch

from scale_rlhf.telemetry.logs import RUN


def device() -> torch.device:
    """The device that this process computes on: the GPU that Ray gave it, else the CPU."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def collective_backend() -> str:
    """torch.distributed's backend for that device."""
    return "nccl" if torch.cuda.is_available() else "gloo"


def environment(threads: int, gpus: float = 0) -> dict[str, str]:
    """Environment of an actor: set before torch, DeepSpeed or vLLM are imported."""
    variables = {
        "OMP_NUM_THREADS": str(threads),  # two threads in each of several busy roles fight over the cores
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "DEEPSPEED_LOG_LEVEL": "warning",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    if not gpus:
        variables |= {"DS_ACCELERATOR": "cpu", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    for inherited in ("HF_HUB_OFFLINE", "HF_HOME", "TORCH_EXTENSIONS_DIR", "PYTHONPATH", RUN):
        if inherited in os.environ:
            variables[inherited] = os.environ[inherited]
    return variables
