"""scale-rlhf: reinforcement learning from human feedback, from two cores to a cluster.

``import scale_rlhf`` is light: what needs torch, Ray or vLLM is imported when it is used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scale_rlhf.config.load import load_config
    from scale_rlhf.stages.runner import run

__version__ = "0.1.0"
__all__ = ["__version__", "load_config", "run"]

_LAZY = {"load_config": "scale_rlhf.config.load", "run": "scale_rlhf.stages.runner"}


def __getattr__(name: str):
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
