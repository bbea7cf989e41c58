"""What raters said, read from a file: ratings, rankings, good and bad; and how it becomes a batch."""

import json
import math

import pytest
import torch

from scale_rlhf.config.checks import check
from scale_rlhf.config.load import load_config
from scale_rlhf.config.schema import DataSource
from scale_rlhf.config.supervised import RewardModelSection
from scale_rlhf.data.feedback import judgements, of_pair
from scale_rlhf.errors import ConfigError, DataError

NAN = math.nan


@pytest.fixture
def file(tmp_path):
    def written(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return DataSource(path=str(path))

    return written


def rated(ratings, **more):
    return {"prompt": "Why?", "responses": ["a", "b", "c"], "ratings": ratings, **more}


def targets(source, *arguments):
    return judgements(source, *arguments)["targets"][:]


def test_ratings_are_the_means_of_the_raters(file):
    assert targets(file(rated([[5, 4], 2, [0, 1, 2]])), "ratings") == [[[4.5, 2.0, 1.0]]]


def test_aspects_come_in_the_order_asked_for_and_may_be_missing(file):
    source = file(rated({"honest": [1, 2, 3], "helpful": [[4, 5], 4, 3]}), rated({"helpful": [1, 1, 1]}))
    first, second = targets(source, "ratings", ["helpful", "honest"])
    assert first == [[4.5, 4.0, 3.0], [1.0, 2.0, 3.0]]
    assert second[0] == [1.0, 1.0, 1.0] and all(map(math.isnan, second[1]))


def test_rankings(file):
    source = file({"prompt": "Why?", "responses": ["a", "b"], "ranking": "best-to-worst"},
                  {"prompt": "Why?", "responses": ["a", "b", "c"], "ranks": [2, 1, 2]})
    assert targets(source, "rankings") == [[[-1.0, -2.0]], [[-2.0, -1.0, -2.0]]]


def test_ratings_can_be_ranked_equal_ones_tie(file):
    source = file(rated({"helpful": [[4, 5], 4.5, 2], "honest": [1, 2, 3]}))
    assert targets(source, "rankings", ["helpful", "honest"]) == [[[-1.0, -1.0, -3.0], [-3.0, -2.0, -1.0]]]


def test_verdicts_on_one_prompt_stand_together(file):
    rows = [{"prompt": p, "response": r, "good": g} for p, r, g in (("A?", "x", True), ("B?", "y", False), ("A?", "z", False))]
    found = judgements(file(*rows), "binary")
    assert found["responses"][:] == [["x", "z"], ["y"]] and found["targets"][:] == [[[1.0, 0.0]], [[0.0]]]


def test_a_pair_in_the_same_form():
    pair = {"messages": [], "chosen": "a", "rejected": "b", "margin": 2.5}
    assert of_pair(pair) == {"messages": [], "responses": ["a", "b"], "targets": [[2.5, 0.0]]}
    assert of_pair(pair | {"margin": None})["targets"] == [[1.0, 0.0]]


@pytest.mark.parametrize("row, asked, said", [
    (rated([1, 2]), ("ratings",), "one entry a response"),
    (rated([1, 2, "3"]), ("ratings",), "must be a number"),
    (rated([1, 2, 3]), ("ratings", ["helpful"]), "reward_model.aspects asks for 'helpful'"),
    (rated({"helpful": [1, 2, 3]}), ("ratings",), "say in reward_model.aspects which"),
    (rated({"helpfull": [1, 2, 3]}), ("ratings", ["helpful"]), "did you mean `helpfull`"),
    (rated([2, 2, 2]), ("rankings",), "no ranking sets one response above another"),
    (rated([2, 2, 2]), ("comparisons",), "no two responses to one prompt have different mean ratings"),
    ({"prompt": "Why?", "responses": ["a", "b"], "ranks": [0, 1]}, ("rankings",), "one integer from 1"),
    ({"prompt": "Why?", "responses": ["a", "b"], "ranks": [1, 2]}, ("rankings", ["helpful"]), "a ranking has no aspects"),
    ({"prompt": "Why?", "responses": ["a", "b"], "ranking": "worst-to-best"}, ("rankings",), "best-to-worst"),
    ({"prompt": "Why?", "response": "a", "good": 1}, ("binary",), "true or false"),
    ({"prompt": "Why?", "response": "a"}, ("binary",), "no column `good`"),
])
def test_what_is_wrong_is_told_with_its_place(file, row, asked, said):
    with pytest.raises(DataError, match=said) as caught:
        judgements(file(row), *asked)
    assert "rows.jsonl" in str(caught.value)


def test_a_batch_of_rankings_of_several_lengths():
    from scale_rlhf.training.judged_trainer import collated, count, feedback_loss

    rows = [{"texts": [[7, 8, 9], [7]], "targets": [[-1.0, -2.0]]}, {"texts": [[4], [5, 6], [3]], "targets": [[-2.0, NAN, -1.0]]}]
    batch = collated(rows, pad=0)
    assert batch["input_ids"].tolist() == [[7, 8, 9], [7, 0, 0], [4, 0, 0], [5, 6, 0], [3, 0, 0]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 1, 1, 2, 1]
    assert batch["places"].tolist() == [[0, 1, 0], [2, 3, 4]] and batch["targets"].isnan().tolist()[0] == [[False, False, True]]
    scores = torch.tensor([[1.0], [3.0], [0.5], [100.0], [0.25]])
    loss = feedback_loss(scores, batch["targets"], batch["places"], RewardModelSection(feedback="rankings"), denominator=2)
    assert float(loss) == pytest.approx((math.log(1 + math.exp(2)) + math.log(1 + math.exp(0.25))) / 2)
    ranked = RewardModelSection(feedback="rankings")
    assert [count(row["targets"], ranked) for row in rows] == [1, 1]
    assert [count(row, ranked) for row in ([[NAN]], [[1.0], [NAN]], [[1.0, NAN]], [[1.0, 2.0], [0.0, 0.0]])] == [0, 1, 0, 2]


def test_comparisons_in_rows_of_several_lengths():
    from scale_rlhf.training.judged_trainer import collated, count, feedback_loss

    section = RewardModelSection(feedback="comparisons", minimum_gap=0.5, margin=True)
    rows = [{"texts": [[7, 8, 9], [7]], "targets": [[1.0, 4.0]]}, {"texts": [[4], [5, 6], [3]], "targets": [[2.0, NAN, 1.75]]},
            {"texts": [[4], [5, 6], [3]], "targets": [[2.0, 2.0, 1.0]]}]
    assert [count(row["targets"], section) for row in rows] == [1, 0, 2]  # too near, or a tie, is no comparison
    batch = collated(rows, pad=0)
    scores = torch.tensor([[1.0], [3.0], [0.5], [100.0], [0.25], [2.0], [1.0], [0.0]])
    loss = feedback_loss(scores, batch["targets"], batch["places"], section, denominator=3)
    ahead = [3.0 - 1.0 - 3.0, 2.0 - 0.0 - 1.0, 1.0 - 0.0 - 1.0]  # scores, less the margin
    assert float(loss) == pytest.approx(sum(math.log(1 + math.exp(-one)) for one in ahead) / 3)


def test_every_aspect_has_its_head():
    from scale_rlhf.training.judged_trainer import collated, feedback_loss

    rows = [{"texts": [[7]], "targets": [[3.0], [NAN]]}, {"texts": [[8]], "targets": [[1.0], [2.0]]}]
    batch, scores = collated(rows, pad=0), torch.tensor([[2.0, 9.0], [1.0, 4.0]], requires_grad=True)
    loss = feedback_loss(scores, batch["targets"], batch["places"], RewardModelSection(feedback="ratings"), denominator=3)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((1 + 0 + 4) / 3)
    assert scores.grad.tolist() == [[pytest.approx(-2 / 3), 0.0], [0.0, pytest.approx(4 / 3)]]


@pytest.mark.parametrize("settings, said", [
    (["reward_model.aspects=[helpful]"], "feedback: pairs has no aspects"),
    (["reward_model.feedback=ratings", "reward_model.aspects=[helpful,helpful]"], "expected each name once"),
    (["reward_model.feedback=ratings", "reward_model.margin=false"], "reward_model.margin"),
    (["reward_model.feedback=binary", "reward_model.minimum_gap=1"], "reward_model.minimum_gap"),
    (["reward_model.feedback=rating"], "pairs"),
    (["reward.combine=worst"], "reward.ensemble is empty"),
    (["reward.deviation_coefficient=2"], "reward.combine: mean_minus_deviation"),
    (["reward.url=http://localhost:1", "reward.ensemble=[models/b]"], "reward.ensemble"),
    (["reward.aspects={helpful: 0}"], "every weight is 0"),
    (["reward_model.feedback=ratings", "reward_model.aspects=[helpful]", "reward.aspects={helpfull: 1}"], "did you mean helpful"),
    (["reward_model.feedback=ratings", "reward_model.aspects=[helpful,honest]"], "set value.initial=policy"),
])
def test_keys_that_contradict_each_other(tmp_path, settings, said):
    (tmp_path / "run.yaml").write_text("{data: {practice: {}}, cluster: {cpus: 8}}")
    with pytest.raises(ConfigError, match=said):
        check(load_config(tmp_path / "run.yaml", settings))


@pytest.mark.parametrize("settings", [{"feedback": "pairs", "minimum_gap": 2}, {"feedback": "ratings"}, {"feedback": "rankings"}])
def test_evaluation_ranks_the_same_held_out_responses_whatever_the_model_learned_from(file, tmp_path, settings):
    """Also those whose ratings are nearer than minimum_gap; the judge alone says which is better."""
    from transformers import AutoTokenizer

    from scale_rlhf.config.schema import RunConfig
    from scale_rlhf.stages.evaluation_ranking import held_out_pairs
    from tests.tiny import tiny_tokenizer

    class Verdict:
        def __init__(self, score):
            self.score = score

    source = file(*({"prompt": f"Question {place}?", "responses": ["a", "b", "c"], "ratings": [1, 2, 4]} for place in range(40)))
    config = RunConfig(data={"preferences": source.path, "hold_out": 0.2}, reward_model=settings)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer(tmp_path / "tokenizer"))
    found = held_out_pairs(config, None, tokenizer, lambda asked, text: Verdict({"a": 3, "b": 1, "c": 2}[text]))
    said = [tokenizer.decode(sample.response_ids.tolist(), skip_special_tokens=True) for sample in found.samples]
    assert len(said) >= 6 and set(zip(said[::2], said[1::2], strict=True)) == {("a", "b"), ("a", "c"), ("c", "b")}
    assert {sample.prompt.row["prompt"] for sample in found.samples} < {f"Question {place}?" for place in range(40)}


def test_a_member_that_is_not_there_is_told_by_its_key(tmp_path):
    (tmp_path / "run.yaml").write_text("{data: {practice: {}}, cluster: {cpus: 8}, reward: {ensemble: [./nowhere]}}")
    with pytest.raises(ConfigError, match=r"reward\.ensemble\.0: "):
        check(load_config(tmp_path / "run.yaml"))
