"""Who is asked in a chat and who scores, from what stands on the command line; what a model is given; how answers are shown."""

import json
import os
import signal
import threading

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoTokenizer

from scale_rlhf.chat.panel import Panel
from scale_rlhf.chat.screen import Beside, about
from scale_rlhf.chat.settings import Wishes, engine_config, reward_config
from scale_rlhf.chat.speakers import scorer, speakers
from scale_rlhf.chat.voice import Answer, Voice
from scale_rlhf.cluster.signals import interruptible
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.data.chat import prompt_ids
from scale_rlhf.errors import ConfigError
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.rollout.fleet import RolloutFleet
from tests.tiny import END, tiny_classifier, tiny_policy


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """A run that has made base, SFT and PPO, and a reward model."""
    config = RunConfig(run={"name": "toy", "folder": str(tmp_path_factory.mktemp("runs"))}, reward={"aspects": {"kind": 2.0}},
                       rollout={"max_response_tokens": 24, "labels": {"role": "rollout"}}, evaluation={"temperature": 0.5})
    folder = RunFolder.create(config)
    for name in ("base", "sft", "ppo"):
        tiny_policy(folder.model(name))
    tiny_classifier(folder.model("reward"))
    return folder


def test_a_run_stands_for_its_models_and_its_reward_model(run):
    who = speakers([str(run.path)])
    assert [one.name for one in who] == ["base", "SFT", "PPO"]
    assert [one.plain for one in who] == [True, False, False]
    assert scorer(None, who).path == str(run.model("reward"))


def test_a_models_folder_inside_a_run_is_known_by_its_run(run):
    who = speakers([str(run.model("ppo")), str(run.model("base"))])
    assert [(one.name, one.plain, one.run) for one in who] == [("PPO", False, run.path), ("base", True, run.path)]
    assert scorer(None, who).path == str(run.model("reward"))


def test_models_of_one_name_are_told_apart(run, tmp_path):
    models = [tiny_policy(tmp_path / place / "mine") for place in ("one", "two")]
    who = speakers([str(run.model("ppo")), *map(str, models)])
    assert [one.name for one in who] == ["PPO", *map(str, models)]
    assert scorer(None, who[1:]) is None and scorer(str(run.path), who[1:]).path == str(run.model("reward"))


@pytest.mark.parametrize(("named", "said"), [
    ("toi", "model folder {runs}/toi does not exist (looked in {runs}); did you mean {runs}/toy?"),
    ("toy/models/reward", "is a reward model, which answers nothing; give it as --reward"),
    ("toy/models", "has no config.json"),
    ("wide", "has heads of 48, and vLLM's CPU backend has 32, 64"),
    ("mute", "has no chat template"),
])
def test_what_cannot_chat_is_refused_with_the_reason(run, named, said):
    runs = run.path.parent
    if named in ("wide", "mute"):
        folder = tiny_policy(runs / named)
        if named == "mute":
            (folder / "chat_template.jinja").unlink()
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"head_dim": 48 if named == "wide" else 32}))
    with pytest.raises(ConfigError) as error:
        speakers([str(runs / named)])
    assert said.format(runs=runs) in str(error.value)


def test_a_template_can_be_given_to_a_model_without_one(run, tmp_path):
    mute, template = tiny_policy(tmp_path / "mute"), tmp_path / "chat.jinja"
    (mute / "chat_template.jinja").rename(template)
    [speaker] = speakers([str(mute)], str(template))
    assert Voice(speaker, 1, Wishes()).tokenizer.chat_template == template.read_text()


def test_a_policy_is_no_reward_model(run):
    with pytest.raises(ConfigError, match="--reward: expected a sequence-classification model at .*found .*Qwen3ForCausalLM"):
        scorer(str(run.model("sft")), [])


def test_an_engine_has_its_runs_settings_and_room_for_a_conversation(run):
    [ppo] = speakers([str(run.model("ppo"))])
    config = engine_config(ppo, 4, Wishes())
    assert (config.rollout.max_response_tokens, config.rollout.labels) == (24, {})
    assert config.data.max_prompt_tokens + config.rollout.max_response_tokens == 256  # the model's context
    assert engine_config(ppo, 4, Wishes(max_tokens=9)).rollout.max_response_tokens == 9
    assert engine_config(ppo, 4, Wishes(max_tokens=9_999)).data.max_prompt_tokens == 1
    assert reward_config(scorer(None, [ppo]), 4).reward.aspects == {"kind": 2.0}


class Said(RolloutFleet):
    """An engine that repeats, token by token, what it was asked last, and then ends; it remembers what it was asked."""

    def __init__(self, silent_after=None):
        self.asked, self.closed, self.silent_after = [], 0, silent_after

    async def start(self, options):
        pass

    async def generate(self, prompt, *, max_tokens):
        pass

    async def stream(self, prompt, *, max_tokens, temperature):
        import asyncio

        ids = [*prompt.token_ids.tolist()[-4:-1], END][:max_tokens]
        self.asked.append(prompt.token_ids.tolist())
        try:
            for count in range(1, len(ids) + 1):
                if count == self.silent_after:
                    await asyncio.Event().wait()
                said = np.asarray(ids[:count], np.int32)
                yield Sample(prompt, said, np.zeros(count, np.float32), np.zeros(count, np.int32), ids[count - 1] == END)
        finally:
            self.closed += 1

    async def close(self):
        pass


@pytest.fixture
def panel(run):
    panel = Panel(speakers([str(run.path)]), None, Wishes())
    for voice in panel.voices:
        voice.fleet = Said()
    with panel:
        yield panel


def test_a_conversation_goes_on_and_begins_again(panel, run):
    tokenizer = AutoTokenizer.from_pretrained(run.model("ppo"))
    seen = []
    first = panel.ask("What is the capital of France?", lambda answers: seen.append(answers[2].tokens))
    assert [answer.state for answer in first] == ["ended"] * 3 and set(seen) >= {1, 2, 3, 4}
    panel.ask("And of Bolivia?", lambda _: None)
    messages = [{"role": "user", "content": "What is the capital of France?"}, {"role": "assistant", "content": first[2].text},
                {"role": "user", "content": "And of Bolivia?"}]
    base, _, ppo = (voice.fleet.asked for voice in panel.voices)
    assert ppo == [prompt_ids(tokenizer, messages[:1]), prompt_ids(tokenizer, messages)]
    assert tokenizer.decode(base[0]) == "What is the capital of France?\n"  # a line of text: it knows of no chat
    assert tokenizer.decode(base[1]) == f"What is the capital of France?\n{first[0].text}\nAnd of Bolivia?\n"
    panel.begin_again()
    panel.ask("And of Bolivia?", lambda _: None)
    assert ppo[2] == prompt_ids(tokenizer, messages[2:])


def test_ctrl_c_stops_the_answers_alone(panel):
    panel.voices[1].fleet = slow = Said(silent_after=3)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    with interruptible():  # as a chat does: who was started in the background has Ctrl-C ignored
        timer.start()
        answers = panel.ask("What is the capital of France?", lambda _: None)
        timer.join()
    assert [answer.state for answer in answers] == ["ended", "stopped", "ended"] and answers[1].tokens == 2
    assert slow.closed == 1  # its engine was told
    slow.silent_after = None
    assert panel.ask("And of Bolivia?", lambda _: None)[1].state == "ended"
    assert panel.voices[1].messages[1] == {"role": "assistant", "content": answers[1].text}


def test_what_is_too_long_is_said_and_forgotten(panel):
    answers = panel.ask("What is the capital of France? " * 40, lambda _: None)
    assert [answer.state for answer in answers] == ["full"] * 3
    assert [voice.messages for voice in panel.voices] == [[]] * 3
    assert panel.ask("And of Bolivia?", lambda _: None)[0].state == "ended"


def test_the_system_speaks_first(run):
    voice = Voice(speakers([str(run.model("sft"))])[0], 1, Wishes(system="Be kind."))
    voice.ask("Hello")
    assert [turn["role"] for turn in voice.messages] == ["system", "user"]


@pytest.mark.parametrize("width", [90, 50])
def test_answers_stand_side_by_side_where_there_is_room(width):
    answers = [Answer("SFT", "Who [bold]cares\x1b[2J.", 5, "ended", -1.25), Answer("PPO", "In French", 1, "cut", 4.0)]
    console = Console(width=width, record=True, file=open(os.devnull, "w"))
    console.print(Beside(answers))
    lines = console.export_text().splitlines()
    together = [line for line in lines if "SFT" in line and "PPO" in line]
    assert len(together) == (width >= 52)
    assert any("[bold]cares\\x1b[2J." in line for line in lines)  # neither we nor the terminal obey what a model says
    assert any("reward -1.25, 5 tokens" in line for line in lines) and about(answers[1]) == "reward 4.00, 1 token, cut off"
