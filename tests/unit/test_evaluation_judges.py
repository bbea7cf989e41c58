"""Models × prompt sets × judges: who is asked what, in which order, and what is said of it. Judges' processes are fakes here."""

import io
import json
import shutil
from types import SimpleNamespace

import pytest
from rich.console import Console

from scale_rlhf.config.checks import check
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.data.chat import prompt_ids
from scale_rlhf.errors import ConfigError, DataError, RunError
from scale_rlhf.evaluation.findings import detectors, joined, prompt_set, recorded, verdict
from scale_rlhf.evaluation.independence import same_model, trained_against
from scale_rlhf.evaluation.judges import Judged, ask_judges, judged_sets
from scale_rlhf.evaluation.remarks import remarks, warnings
from scale_rlhf.evaluation.statistics import mean, share
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.reward.interface import ScoringFailed
from scale_rlhf.stages.evaluation_answers import Contestants, Question, contestants, prompt_sets, with_tokenizers
from scale_rlhf.stages.evaluation_asking import answer
from scale_rlhf.stages.evaluation_table import print_table
from scale_rlhf.telemetry.judged_report import judged_section
from tests.tiny import END, samples, tiny_policy, tiny_tokenizer


class Fleet:
    """Scores by rule; counts how often it was started and closed."""

    started = closed = 0

    def __init__(self, rule):
        self.rule = rule

    async def start(self):
        Fleet.started += 1

    async def score(self, samples, *, fixed, group):
        return [self.rule(sample) for sample in samples]

    async def metrics(self):
        return {"samples": 1, "aspect_helpful_mean": 0.25}

    def close(self):
        Fleet.closed += 1


@pytest.fixture
def fleets(monkeypatch):
    """Judges by the function that they name: `rules[name]`."""
    rules = {}
    monkeypatch.setattr("scale_rlhf.reward.make.make_judge", lambda config, source, policy: Fleet(rules[source.function]))
    Fleet.started = Fleet.closed = 0
    return rules


def config_of(**evaluation) -> RunConfig:
    return RunConfig(evaluation=evaluation)


def answers_of(**lengths):
    """Answers of so many tokens by model, the same for each of three prompts."""
    return {name: samples(3, response=(n, n)) for name, n in lengths.items()}


def texts_of(answers):
    return {name: [name] * len(said) for name, said in answers.items()}


# Who judges what


def test_a_set_is_judged_by_those_that_it_names():
    config = config_of(
        judges={"one": {"function": "m:one"}, "two": {"function": "m:two"}},
        prompt_sets={"every": "a.jsonl", "some": {"path": "b.jsonl", "judges": ["two"]},
                     "none": {"path": "c.jsonl", "judges": []}, "school": {"path": "d.jsonl", "verify": {"function": "m:right"}}},
    )
    assert {key: names for key, (_, names) in judged_sets(config).items()} == {
        "evaluation.judges.one": ["held_out", "every"], "evaluation.judges.two": ["held_out", "every", "some"],
        "evaluation.prompt_sets.school.verify": ["school"]}
    assert judged_sets(RunConfig()) == {}


def test_a_judge_that_scores_scores_every_model(fleets):
    fleets["m:tokens"] = lambda sample: float(len(sample.response_ids))
    answers = answers_of(sft=3, ppo=5)
    found = ask_judges(config_of(judges={"tokens": {"function": "m:tokens"}}), {"held_out": answers},
                       {"held_out": texts_of(answers)}, "sft", "P")
    judged = found["evaluation.judges.tokens"]["held_out"]
    assert judged.scores == {"sft": [3.0] * 3, "ppo": [5.0] * 3} and judged.aspects["ppo"] == {"helpful": 0.25}
    assert (Fleet.started, Fleet.closed) == (1, 1)


def test_a_judge_that_compares_sees_each_pair_in_both_orders(fleets):
    seen = []
    fleets["m:first"] = lambda sample: seen.append((len(sample.response_ids), sample.prompt.row["other"])) or 0.75
    answers = answers_of(base=2, sft=3, ppo=5)
    judges = {"first": {"function": "m:first", "pairwise": True}}
    found = ask_judges(config_of(judges=judges), {"held_out": answers}, {"held_out": texts_of(answers)}, "sft", "P")
    same = [0.75] * 3
    assert found["evaluation.judges.first"]["held_out"].preferences == {"base": (same, same), "ppo": (same, same)}
    assert seen == [(2, "sft")] * 3 + [(3, "base")] * 3 + [(5, "sft")] * 3 + [(3, "ppo")] * 3
    said = verdict(found["evaluation.judges.first"]["held_out"], "sft")
    assert said["pairwise"] and said["position_bias"] == 0.25 and said["agreement"] == 0.0
    assert said["models"]["ppo"]["win_rate"] == 0.5 and "sft" not in said["models"]


def test_what_a_judge_gets_wrong_is_said_with_its_name(fleets):
    def fails(sample):
        raise ScoringFailed("it raised")

    fleets |= {"m:far": lambda sample: 1.5, "m:fails": fails}
    answers = answers_of(sft=3, ppo=5)
    rest = {"held_out": answers, "school": answers}, {"held_out": texts_of(answers), "school": texts_of(answers)}, "sft", "P"
    with pytest.raises(RunError, match=r"^evaluation.judges.far: expected how far it prefers .* from 0 to 1; it returned 1.5"):
        ask_judges(config_of(judges={"far": {"function": "m:far", "pairwise": True}}), *rest)
    with pytest.raises(ScoringFailed, match="^evaluation.judges.bad: it raised"):
        ask_judges(config_of(judges={"bad": {"function": "m:fails"}}), *rest)
    with pytest.raises(RunError, match="^evaluation.prompt_sets.school.verify: expected how right"):
        ask_judges(config_of(prompt_sets={"school": {"path": "x.jsonl", "verify": {"function": "m:far"}}}), *rest)
    assert Fleet.started == Fleet.closed == 3


# The reward of the run is no judge


def test_the_reward_of_the_run_is_found_under_any_name(tmp_path):
    made, other = tmp_path / "reward", tmp_path / "other"
    for folder, weights in ((made, b"weights"), (other, b"Weights")):  # as long as each other
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(weights)
    copy = shutil.copytree(made, tmp_path / "copy")
    judges = {"itself": {"model": str(made)}, "copied": {"model": str(copy)}, "other": {"model": str(other)},
              "among": {"model": str(other), "ensemble": [str(copy)]}}
    config = config_of(judges=judges)
    found = trained_against(config, str(made), ["sft", "ppo"])
    assert found == {f"evaluation.judges.{name}": "the model" for name in ("itself", "copied", "among")}
    assert trained_against(config, str(made), ["sft", "dpo"]) == {}  # nothing was trained against it
    assert trained_against(config, None, ["ppo"]) == {}
    (said,) = warnings({"models": {"ppo": {}}, "win_by": "true score"}, {"evaluation.judges.itself": "the model"})
    assert "evaluation.judges.itself is the model that the run trained against" in said


def test_functions_and_services_too():
    judges = {"rule": {"function": "m:score"}, "other": {"function": "m:other"}, "web": {"url": "http://h/a"}, "far": {"url": "http://h/b"}}
    config = RunConfig(evaluation={"judges": judges}, reward={"mix": {"a": {"function": "m:score"}, "b": {"url": "http://h/a"}}})
    assert trained_against(config, None, ["best_of_n"]) == {
        "evaluation.judges.rule": "the function", "evaluation.judges.web": "the service"}
    assert same_model("org/model", "org/model") and not same_model("org/model", "org/other")


def test_wins_by_the_reward_itself_are_warned_of():
    table = {"models": {"sft": {"reward": 1.0}, "ppo": {"reward": 2.0}}, "win_by": "reward-model score"}
    assert "wins are by the very reward" in warnings(table, {})[0]
    assert warnings({**table, "win_by": "true score"}, {}) == []
    assert warnings({"models": {"sft": {"reward": 1.0}, "dpo": {"reward": 2.0}}, "win_by": "reward-model score"}, {}) == []


# Numbers, and where they are shown


def a_table() -> dict:
    texts = {"sft": ["I cannot help with that.", "Paris."], "ppo": ["Paris.", "Paris."]}
    scored = Judged(scores={"sft": [1.0, 2.0], "ppo": [3.0, 2.0]}, aspects={"sft": {"kind": 0.5}, "ppo": {"kind": 0.75}})
    compares = Judged(preferences={"ppo": ([1.0, 0.5], [0.0, 1.0])})
    right = Judged(scores={"sft": [0.0, 1.0], "ppo": [1.0, 1.0]})
    detect = detectors(RunConfig().evaluation)
    held_out = prompt_set(detect, [None] * 2, texts, {"scores": scored, "<b>": compares}, None, "sft")
    school = prompt_set(detect, ["refuse", "answer"], texts, {}, right, "sft")
    models = {name: joined({"path": "x", "win_rate": None}, recorded({"reward": mean([1.0, 2.0])})) for name in texts}
    models["ppo"] = joined(models["ppo"], recorded({"win_rate": share([1.0, 0.5])}))
    table = {"models": models, "anchor": "sft", "prompts": 2, "temperature": 0.7, "win_by": "true score", "confidence": 0.95,
             "prompt_sets": {"held_out": held_out, "school": school}, "warnings": ["be careful"]}
    return table | {"remarks": remarks(table, ["noise"])}


def test_numbers_of_a_set():
    table = a_table()
    json.dumps(table, allow_nan=False)
    scored, compares = table["prompt_sets"]["held_out"]["judges"].values()
    assert scored["models"]["ppo"]["score"] == 2.5 and scored["models"]["ppo"]["win_rate"] == 0.75
    assert "win_rate" not in scored["models"]["sft"] and not scored["pairwise"]
    assert compares["models"]["ppo"]["win_rate"] == (1.0 + 0.25) / 2
    assert compares["position_bias"] == (0.0 + 0.25) / 2 and compares["agreement"] == 0.5
    school = table["prompt_sets"]["school"]["models"]
    assert (school["sft"]["right"], school["ppo"]["right"]) == (0.5, 1.0)
    assert (school["sft"]["refusals_right"], school["ppo"]["refusals_right"]) == (1, 0)
    assert school["ppo"]["counts"]["refusals_right"] == 1
    low, high = school["ppo"]["intervals"]["right"]
    assert 0.3 < low < 0.4 and high == 1.0  # Wilson's of two out of two


def test_the_table_and_the_report_show_all_of_it():
    table = a_table()
    console = Console(record=True, width=160, file=io.StringIO())
    print_table(table, console)
    text = console.export_text()
    for shown in ("Judges and prompt sets", "scores: win rate", "scores: kind", "0.75", "right answers",
                  "100% ±33", "every pair was shown in both orders",
                  "scores: one answer is scored at a time", "Warning: be careful",
                  "Alignment tax, right answers on school: SFT 50%, PPO 100%", "noise: no KL", "95% intervals"):
        assert shown in text, shown
    page = judged_section(table)
    assert "100% [34, 100]" in page
    assert "<b>" not in page.replace("&lt;b&gt;", "") and "&lt;b&gt;" in page
    for title in ("Win rate against SFT", "Right answers: school", "Rightly refused"):
        assert f"<figcaption>{title}</figcaption>" in page
    assert "nan" not in page and page.count("<circle") >= 6
    assert judged_section({"models": {}}) == ""


# Models and prompts beside the run's own


def test_further_models_stand_behind_the_runs_own(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for stage in ("sft", "ppo"):
        tiny_policy(folder.model(stage))
    kin, foreign = tiny_policy(tmp_path / "kin"), tiny_policy(tmp_path / "foreign", vocabulary=300)
    config = config_of(models={"kin": str(kin), "foreign": str(foreign)})
    who = contestants(config, folder)
    assert list(who.paths) == ["sft", "ppo", "kin", "foreign"] and who.anchor == "sft"
    tokenizer = load(folder.model("sft"))
    assert set(with_tokenizers(config, who, tokenizer).tokenizers) == {"foreign"}
    assert contestants(config, RunFolder(tmp_path / "empty")).anchor == "kin"


def load(path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


def test_a_model_with_other_tokens_is_asked_and_read_in_its_own(tmp_path, monkeypatch):
    import sys

    ours, theirs = load(tiny_tokenizer(tmp_path / "ours")), load(tiny_tokenizer(tmp_path / "theirs", vocabulary=270))
    text = "The capital of France is Paris."
    asked = []

    class Engine:
        def __init__(self, config):
            pass

        __enter__ = lambda self: self  # noqa: E731
        __exit__ = lambda self, *error: None  # noqa: E731

        def load(self, path):
            self.tokenizer = theirs if path == "F" else ours

        def answer(self, prompts, temperature, seed):
            asked.append([self.tokenizer.decode(ids) for ids in prompts])
            return [[*self.tokenizer(text)["input_ids"], END] for _ in prompts]

    monkeypatch.setitem(sys.modules, "scale_rlhf.rollout.answers", SimpleNamespace(Answerer=Engine))
    who = Contestants({"sft": "S", "far": "F"}, "sft", frozenset(), {"far": theirs})
    messages = [{"role": "user", "content": "What?"}]
    question = Question({"messages": messages, "_at": "f:1"}, prompt_ids(ours, messages), "What?")
    sets = {"held_out": [question], "school": [question, question]}
    found = answer(config_of(temperature=1.0, diversity_prompts=1, diversity_samples=3), who, sets, ours)
    assert {key: {name: len(said) for name, said in of.items()} for key, of in found.of.items()} == {
        "held_out": {"sft": 1, "far": 1}, "school": {"sft": 2, "far": 2}}
    for name in ("sft", "far"):
        (sample,) = found.of["held_out"][name]
        assert ours.decode(sample.response_ids, skip_special_tokens=True) == text
        assert sample.ended and sample.response_ids[-1] == END
        assert [len(one) for one in found.several[name]] == [3]
    assert asked[0] == asked[3] == ["<|user|>What?<|assistant|>"] and found.for_kl == {}
    with pytest.raises(DataError, match="f:1: the prompt has .* tokens in evaluation.models.far, more than data.max"):
        answer(RunConfig(data={"max_prompt_tokens": 3}), who, sets, ours)
    assert answer(config_of(temperature=0.0), who, sets, ours).several == {}  # greedy answers are all alike


def test_prompt_sets_are_read_beside_the_held_out_prompts(tmp_path):
    def file(name, *rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    tokenizer = load(tiny_tokenizer(tmp_path / "tokenizer"))
    held_out = file("held.jsonl", {"prompt": "a?", "should": "refuse"})
    more = file("more.jsonl", {"question": "b?", "answer": "42"}, {"question": "c?", "answer": "43"})
    sets = {"more": {"path": more, "columns": {"prompt": "question"}}}
    config = RunConfig(data={"evaluation": held_out, "prompts": held_out}, evaluation={"prompt_sets": sets, "prompts": 1})
    found = prompt_sets(config, RunFolder(tmp_path / "run"), tokenizer)
    assert [[question.text for question in asked] for asked in found.values()] == [["a?"], ["b?"]]
    assert found["held_out"][0].should == "refuse" and found["more"][0].row["answer"] == "42"
    config.evaluation.prompt_sets["more"].path = file("bad.jsonl", {"question": "b?", "should": "reply"})
    with pytest.raises(DataError, match="bad.jsonl:1: should: expected one of answer, refuse, admit; found 'reply'"):
        prompt_sets(config, RunFolder(tmp_path / "run"), tokenizer)


# Before anything starts


@pytest.mark.parametrize(("evaluation", "said"), [
    ({"judges": {"a": {}}}, "evaluation.judges.a: expected exactly one of model, function and url; found none of them"),
    ({"judges": {"a": {"function": "json:loads", "url": "http://h/"}}}, "evaluation.judges.a: .* found function and url"),
    ({"judges": {"a": {"url": "h/x"}}}, "evaluation.judges.a.url: expected an address"),
    ({"judges": {"a": {"model": "org/m", "pairwise": True}}}, "evaluation.judges.a.pairwise: a reward model scores one answer"),
    ({"judges": {"a": {"function": "no_such_module_at_all:f"}}}, "evaluation.judges.a.function: there is no Python module"),
    ({"judges": {"a": {"function": "json:loads", "ensemble": ["x"]}}}, "evaluation.judges.a.ensemble: a .* runs"),
    ({"judges": {"a": {"function": "json:loads", "labels": {"x": "y"}}}}, "evaluation.judges.a.labels: judges are asked"),
    ({"models": {"sft": "org/m"}}, "evaluation.models.sft: so the run's own models are called"),
    ({"prompt_sets": {"held_out": "p.jsonl"}}, "evaluation.prompt_sets.held_out: so the held-out prompts of the run are called"),
    ({"prompt_sets": {"a": "nowhere.jsonl"}}, "evaluation.prompt_sets.a: file nowhere.jsonl does not exist"),
    ({"prompt_sets": {"a": {"path": "org/x", "judges": ["larg"]}}, "judges": {"large": {"url": "http://h/"}}},
     "found larg; did you mean large"),
    ({"prompt_sets": {"a": {"path": "org/x", "verify": {"model": "org/m"}}}}, "sets.a.verify.model: a model's score"),
    ({"diversity_prompts": 0, "diversity_samples": 9}, "evaluation.diversity_samples: with evaluation.diversity_prompts: 0"),
    ({"temperature": 0.0, "diversity_samples": 9}, "evaluation.diversity_samples: with evaluation.temperature: 0"),
])
def test_what_is_wrong_is_said_before_anything_starts(evaluation, said):
    with pytest.raises(ConfigError, match=said):
        check(RunConfig(data={"practice": {}}, evaluation=evaluation))


def test_an_unknown_key_of_a_judge_has_its_nearest(tmp_path):
    from scale_rlhf.config.load import load_config

    (tmp_path / "c.yaml").write_text("evaluation:\n  judges:\n    other: {modle: x}\n")
    with pytest.raises(ConfigError, match=r"c.yaml:3: .*: unknown key; did you mean `evaluation.judges.other.model`"):
        load_config(tmp_path / "c.yaml")
