"""A folder is what was written to it, or it is said what differs."""

import json

import pytest

from scale_rlhf.orchestration.checksums import MANIFEST, describe, faults, manifest, problems, seal


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "global_step4").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "global_step4" / "states.pt").write_bytes(b"moments")
    (tmp_path / "empty").touch()
    return tmp_path


def test_describes_every_file_below_the_folder(folder):
    assert describe(folder) == {
        "empty": {"bytes": 0, "xxh3": "2d06800538d394c2"},  # the published value of XXH3-64 for no bytes
        "global_step4/states.pt": {"bytes": 7, "xxh3": describe(folder)["global_step4/states.pt"]["xxh3"]},
        "model.safetensors": {"bytes": 7000, "xxh3": describe(folder)["model.safetensors"]["xxh3"]},
    }


def test_a_large_file_is_read_in_parts_to_the_same_checksum(folder):
    import xxhash

    content = bytes(range(256)) * 40_000  # two chunks and a bit
    (folder / "large").write_bytes(content)
    assert describe(folder)["large"] == {"bytes": len(content), "xxh3": xxhash.xxh3_64_hexdigest(content)}


def test_what_did_not_change_has_no_problems(folder):
    described = json.loads(json.dumps(describe(folder)))
    assert problems(folder, described) == []
    (folder / MANIFEST).write_text("{}")
    assert problems(folder, described) == []


@pytest.mark.parametrize("harm, said", [
    (lambda f: (f / "empty").unlink(), ["empty is missing"]),
    (lambda f: (f / "empty").write_bytes(b"x"), ["empty has 1 bytes instead of 0"]),
    (lambda f: (f / "global_step4" / "states.pt").write_bytes(b"momentS"),
     ["global_step4/states.pt is not what was written (checksum)"]),
    (lambda f: (f / "rng_state_1.pth").write_bytes(b"x"), ["rng_state_1.pth was not there when the folder was written"]),
])
def test_each_kind_of_harm_is_named(folder, harm, said):
    seal(folder)
    assert faults(folder) == []
    harm(folder)
    assert faults(folder) == said


def test_values_are_kept_beside_the_files(folder):
    seal(folder, step=4, workers=2)
    kept = manifest(folder)
    assert (kept["step"], kept["workers"], kept["files"]) == (4, 2, describe(folder))


def test_without_a_manifest_nothing_is_whole(folder):
    assert faults(folder) == [f"it has no {MANIFEST}: it was not written to its end"]
    assert "no manifest" in faults(folder / "nowhere")[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"empty"', '{"files": {"empty": {}}}', '{"files": {"empty": 3}}'])
def test_a_manifest_that_cannot_be_read_is_a_fault(folder, text):
    (folder / MANIFEST).write_text(text)
    assert len(faults(folder)) >= 1 and faults(folder) != [f"it has no {MANIFEST}: it was not written to its end"]
