"""The rows of a file, with its progress shown where it is big."""

from collections.abc import Iterator
from pathlib import Path

from scale_rlhf.config.places import is_local
from scale_rlhf.config.schema import DataSource
from scale_rlhf.data.rows import Found, each_row
from scale_rlhf.telemetry.progress import stage_progress

MEGABYTE = 1 << 20
BIG = 32 * MEGABYTE  # read in a few seconds


def rows_with_progress(source: DataSource) -> Iterator[Found]:
    """`rows.each_row`; of a file over 32 MB it is shown on standard error how much of it is read."""
    path = Path(source.path).expanduser()
    size = path.stat().st_size if is_local(source.path) and path.is_file() else 0
    if size < BIG:
        yield from each_row(source)
        return
    with stage_progress(f"{path.name}, MB", size // MEGABYTE) as bar:
        shown = 0

        def moved(place: int) -> None:
            nonlocal shown
            if place // MEGABYTE > shown:
                bar.advance(place // MEGABYTE - shown)
                shown = place // MEGABYTE

        yield from each_row(source, moved=moved)
