"""A torch whose companions are builds of another kind is told before anything heavy is imported, with the cure."""

import sys

import pytest

from scale_rlhf.cluster.installation import COMPANIONS, check_installation, other_builds
from scale_rlhf.errors import RunError

CURE = "pip uninstall -y torchvision torchaudio torchcodec"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Puts distributions of these versions first on the path, each a module of one line. They are fakes."""

    def install(**packages):
        for name, (version, line) in packages.items():
            info = tmp_path / f"{name}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            if name != "torch":
                (tmp_path / f"{name}.py").write_text(line)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield install
    for name in COMPANIONS:
        if str(getattr(sys.modules.get(name), "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_only_builds_of_another_kind_beside_a_cpu_torch_are_looked_at():
    public = {"torchvision": "0.28.0", "torchaudio": "2.11.0", "torchcodec": "0.17.0"}
    assert other_builds({"torch": "2.13.0+cpu"} | public) == list(COMPANIONS)
    assert other_builds({"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu", "torchaudio": "2.11.0"}) == ["torchaudio"]
    assert other_builds({"torch": "2.13.0"} | public) == other_builds({"torch": "2.13.0+cu130"} | public) == []
    assert other_builds({"torch": "2.13.0+cpu"}) == other_builds(public) == []


def test_a_companion_that_cannot_be_imported_is_named_with_the_cure(installed):
    nms = "raise RuntimeError('operator torchvision::nms does not exist')"
    installed(torch=("2.13.0+cpu", ""), torchvision=("0.28.0", nms))
    with pytest.raises(RunError) as caught:
        check_installation()
    assert "torchvision: operator torchvision::nms does not exist" in str(caught.value) and str(caught.value).endswith(CURE)


def test_a_companion_that_can_be_imported_is_left_alone(installed):
    installed(torch=("2.13.0+cpu", ""), torchcodec=("0.17.0", ""))
    check_installation()


def test_a_run_is_refused_before_its_folder_is_made(installed, tmp_path):
    from scale_rlhf import run
    from scale_rlhf.config.schema import RunConfig

    installed(torch=("2.13.0+cpu", ""), torchaudio=("2.11.0", "raise OSError('Could not load this library')"))
    with pytest.raises(RunError, match="torchaudio: Could not load this library"):
        run(RunConfig(run={"folder": str(tmp_path / "runs")}, data={"practice": {}}, cluster={"cpus": 8}))
    assert not (tmp_path / "runs").exists()
