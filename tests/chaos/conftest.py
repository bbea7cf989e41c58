"""One folder with a tiny model for all runs of the session, and one run that nothing happens to."""

from pathlib import Path

import pytest

from tests.chaos.faults import Run, make_home


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("chaos"))


@pytest.fixture(scope="session")
def undisturbed(home) -> Path:
    run = Run(home, "undisturbed")
    run.finish()
    return run.folder
