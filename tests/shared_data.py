"""Real data that some tests read where it is there: beside the checkout, or where SCALE_RLHF_DATA says."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("SCALE_RLHF_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def shared(name: str) -> Path:
    """A file of it; the test is skipped where it is absent."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"there is no {path}; SCALE_RLHF_DATA=FOLDER says where it is")
    return path
