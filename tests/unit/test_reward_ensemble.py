"""A reward of several numbers, as a replica computes it: against plain transformers on each sample alone."""

import pytest
import torch

from scale_rlhf.errors import ConfigError
from scale_rlhf.models.forward import ScoreHeads
from scale_rlhf.models.loading import load_aspects, load_scalar
from scale_rlhf.reward.ensemble import Ensemble
from scale_rlhf.reward.learned import Scores
from tests.tiny import samples, tiny_classifier, tiny_policy

ASPECTS = ["helpful", "honest"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {f"two {seed}": tiny_classifier(folder / f"two-{seed}", seed=seed, labels=ASPECTS) for seed in (1, 2, 3)}
    made |= {f"one {seed}": tiny_classifier(folder / f"one-{seed}", seed=seed) for seed in (1, 2)}
    return {name: str(path) for name, path in made.items()} | {"policy": str(tiny_policy(folder / "policy"))}


def ensemble(folders, *names, weights=None, how="mean", coefficient=1.0):
    members = [Scores(folders[name], folders["policy"], "float32", "sdpa", False) for name in names]
    return Ensemble(members, weights or {}, how, coefficient)


def computed(work, given):
    model = work.load()
    with torch.no_grad():
        return work.compute(model, work.prepare(given))


def plain(folder, given):
    """[samples, labels], by the library's own class."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.cat([model(torch.tensor([[*s.prompt.token_ids.tolist(), *s.response_ids.tolist()]])).logits for s in given])


def test_one_model_with_one_score_is_what_it_was(folders):
    given = samples(5)
    found = computed(ensemble(folders, "one 1"), given)
    assert [one.score for one in found] == pytest.approx(plain(folders["one 1"], given)[:, 0].tolist(), abs=1e-5)
    assert all(one.parts == {} for one in found)


@pytest.mark.parametrize("weights, mix", [({"honest": -2.0}, [0.0, -2.0]), ({"helpful": 1.0, "honest": 0.5}, [1.0, 0.5]),
                                          ({}, [0.5, 0.5])])
def test_aspects_are_mixed_by_weight(folders, weights, mix):
    given = samples(5)
    each = plain(folders["two 1"], given)
    found = computed(ensemble(folders, "two 1", weights=weights), given)
    assert [one.score for one in found] == pytest.approx((each @ torch.tensor(mix)).tolist(), abs=1e-5)
    assert [one.parts["aspect_honest"] for one in found] == pytest.approx(each[:, 1].tolist(), abs=1e-5)


@pytest.mark.parametrize("how", ["mean", "worst", "mean_minus_deviation"])
def test_members_are_combined(folders, how):
    given, names = samples(6), ("two 1", "two 2", "two 3")
    members = torch.stack([plain(folders[name], given)[:, 1] for name in names])
    middle, spread = members.mean(0), members.std(0, correction=0)
    expected = {"mean": middle, "worst": members.amin(0), "mean_minus_deviation": middle - 0.5 * spread}[how]
    found = computed(ensemble(folders, *names, weights={"honest": 1.0}, how=how, coefficient=0.5), given)
    assert [one.score for one in found] == pytest.approx(expected.tolist(), abs=1e-5)
    assert [one.parts["ensemble_deviation"] for one in found] == pytest.approx(spread.tolist(), abs=1e-5)


def test_a_filler_goes_through_every_member(folders):
    work = ensemble(folders, "one 1", "one 2")
    model = work.load()
    with torch.no_grad():
        assert len(work.compute(model, [work.filler()])) == 1


def test_members_of_other_aspects_and_unknown_weights_are_refused(folders):
    with pytest.raises(ConfigError, match="expected the same of every member"):
        ensemble(folders, "two 1", "one 1").load()
    with pytest.raises(ConfigError, match="did you mean honest"):
        ensemble(folders, "two 1", weights={"honests": 1.0}).load()


def test_classes_need_weights(folders, tmp_path):
    import json

    folder = tiny_classifier(tmp_path / "classes", labels=["BAD", "GOOD"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({name: value for name, value in config.items() if name != "problem_type"}))
    own = {**folders, "classes": str(folder)}
    with pytest.raises(ConfigError, match="whose mean says nothing"):
        ensemble(own, "classes").load()
    given = samples(3)
    found = computed(ensemble(own, "classes", weights={"GOOD": 1.0, "BAD": -1.0}), given)
    each = plain(folder, given)
    assert [one.score for one in found] == pytest.approx((each[:, 1] - each[:, 0]).tolist(), abs=1e-5)


def test_heads_are_named_and_saved_as_any_classifier(folders, tmp_path):
    from transformers import AutoModelForSequenceClassification

    from scale_rlhf.models.loading import save

    model = load_aspects(folders["policy"], ASPECTS, seed=3)
    save(ScoreHeads(model), tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert again.config.id2label == {0: "helpful", 1: "honest"} and again.score.weight.equal(model.score.weight)
    assert load_aspects(str(tmp_path / "saved"), ASPECTS).score.weight.equal(model.score.weight)
    with pytest.raises(ConfigError, match="reward_model.aspects"):
        load_aspects(str(tmp_path / "saved"), ["honest", "helpful"])
    with pytest.raises(ConfigError, match="one score"):
        load_scalar(str(tmp_path / "saved"))
