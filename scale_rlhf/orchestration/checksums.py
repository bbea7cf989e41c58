"""Whether a folder holds what was written to it: sizes and checksums of its files, kept in a manifest beside them.

A folder is written, then sealed: the manifest comes last, so a folder without one was not written to its end. What is
unpickled from a checkpoint is unpickled only after `faults` found none. Guards against accidents, not against malice:
who can write the files can write the manifest too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import xxhash

from scale_rlhf.orchestration.run_folder import write_atomically

MANIFEST = "manifest.json"
_CHUNK = 4 << 20  # bytes

Described = dict[str, dict[str, int | str]]  # name -> {"bytes", "xxh3"}


def describe(folder: Path) -> Described:
    """{name relative to the folder, with "/": {"bytes": size, "xxh3": 16 hex digits}} of every file but the manifest."""
    folder = Path(folder)
    return {name: describe_file(folder / name) for name in _names(folder)}


def describe_file(path: Path) -> dict[str, int | str]:
    """{"bytes", "xxh3"} of one file, once it has reached the disk."""
    sync(path)
    return {"bytes": path.stat().st_size, "xxh3": _xxh3(path)}


def problems(folder: Path, described: Described) -> list[str]:
    """What is not as `describe` found it, a sentence a file; [] where all is. A file more than described is one too.

    Sizes are compared first, so that a cut file is found without being read.
    """
    folder, found = Path(folder), []
    present = set(_names(folder))
    for name in sorted(described.keys() | present):
        if name not in present:
            found.append(f"{name} is missing")
        elif name not in described:
            found.append(f"{name} was not there when the folder was written")
        elif (size := (folder / name).stat().st_size) != described[name]["bytes"]:
            found.append(f"{name} has {size} bytes instead of {described[name]['bytes']}")
        elif _xxh3(folder / name) != described[name]["xxh3"]:
            found.append(f"{name} is not what was written (checksum)")
    return found


def seal(folder: Path, known: Described | None = None, **values) -> None:
    """Write the manifest: the files' sizes and checksums, with `values` (JSON) beside them. Files first reach the disk.

    known: files that whoever wrote them has described already, in the form of `describe`.
    """
    folder, known = Path(folder), known or {}
    files = {name: known.get(name) or describe_file(folder / name) for name in _names(folder)}
    write_atomically(folder / MANIFEST, json.dumps({**values, "files": files}, indent=2) + "\n")
    sync(folder)


def manifest(folder: Path) -> dict:
    """What `seal` wrote: the values, and "files". Raises OSError or ValueError where there is none that can be read."""
    read = json.loads((Path(folder) / MANIFEST).read_text())
    if not isinstance(read, dict) or not isinstance(read.get("files"), dict):
        raise ValueError("it lists no files")
    return read


def faults(folder: Path) -> list[str]:
    """Why a sealed folder must not be used, a sentence each; [] where it is whole."""
    try:
        described = manifest(folder)["files"]
        return problems(folder, described)
    except FileNotFoundError:
        return [f"it has no {MANIFEST}: it was not written to its end"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"its {MANIFEST}, or a file that it lists, cannot be read: {error}"]


def _names(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(name for path in paths if (name := path.relative_to(folder).as_posix()) != MANIFEST)


def _xxh3(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
