"""A chat with real engines and a real reward model; as a process of its own (long), nothing of it is left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from scale_rlhf.chat.panel import Panel
from scale_rlhf.chat.settings import Wishes
from scale_rlhf.chat.speakers import scorer, speakers
from scale_rlhf.cluster.processes import remove_shared_memory, shared_memory_files
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.orchestration.run_folder import RunFolder
from tests.tiny import tiny_classifier, tiny_policy

ROOT = Path(__file__).parents[2]
QUESTION = "What is the capital of France?"


def made(folder: Path, *names: str) -> Path:
    """A run that has made these models, and a reward model."""
    config = RunConfig(run={"name": "toy", "folder": str(folder)}, rollout={"max_response_tokens": 24, "kv_cache_gb": 0.05})
    run = RunFolder.create(config)
    for seed, name in enumerate(names):
        tiny_policy(run.model(name), seed=seed)
    tiny_classifier(run.model("reward"))
    return run.path


def test_answers_grow_and_are_scored_as_in_training(cluster, tmp_path):
    """One engine. What streams in is, token by token, the beginning of what `generate` gives."""
    who = speakers([str(made(tmp_path, "sft"))])
    judge = scorer(None, who)
    with Panel(who, judge, Wishes(temperature=1.0)) as panel:
        [voice], seen = panel.voices, []
        [answer] = panel.ask(QUESTION, lambda answers: seen.append(list(answers[0].sample.response_ids)))
        whole = panel.runner.run(voice.fleet.generate(answer.sample.prompt, temperature=1.0))
        assert list(whole.response_ids) == seen[-1] and len(seen) > 2
        assert all(seen[-1][: len(part)] == part for part in seen) and answer.tokens == len(seen[-1])
        assert answer.score == pytest.approx(alone(judge.path, answer.sample), abs=1e-4)
        again = panel.ask("And of Bolivia?", lambda _: None)[0]
        assert again.score is not None and len(again.sample.prompt.token_ids) > len(answer.sample.prompt.token_ids)
        panel.begin_again()
        first = panel.ask(QUESTION, lambda _: None)[0]
        assert first.sample.prompt.token_ids.tolist() == answer.sample.prompt.token_ids.tolist()


def alone(path: str, sample) -> float:
    """The score by the library itself: prompt and response as one text, at its last token."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    ids = torch.tensor([[*sample.prompt.token_ids.tolist(), *sample.response_ids.tolist()]])
    with torch.no_grad():
        return float(model.score(model.model(ids).last_hidden_state[0, -1]))


@pytest.mark.long
@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM], ids=["the input's end", "ctrl-c", "sigterm"])
def test_a_chat_leaves_nothing_behind(tmp_path, number):
    """Three engines and a reward model, as a user types it. Ctrl-C stops answers that would never come to an end."""
    run, before = made(tmp_path, "base", "sft", "ppo"), shared_memory_files()
    temporary = Path(tempfile.mkdtemp(prefix="tmp-"))
    length = ["--max-tokens", "9" if number is None else "200"]
    process = subprocess.Popen(
        [sys.executable, "-m", "scale_rlhf.cli", "chat", str(run), *length], cwd=tmp_path, text=True, bufsize=1,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    ours: list[psutil.Process] = []
    try:
        process.stdin.write(f"{QUESTION}\n")
        while not (line := process.stdout.readline()).startswith("> "):
            assert line, "it has ended"
        ours = psutil.Process(process.pid).children(recursive=True)
        assert any("raylet" in one.name() for one in ours)
        if number is None:
            process.stdin.write("/new\n/nwe\nAnd of Bolivia?\n")
        else:
            time.sleep(0.1)
            process.send_signal(number)
            if number == signal.SIGINT:
                process.stdin.write("And of Bolivia?\n/quit\n")
        rest, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == (128 + signal.SIGTERM if number == signal.SIGTERM else 0), rest
    assert "Traceback" not in rest
    if number != signal.SIGTERM:
        assert all(rest.count(f"\n{name}  (") + rest.startswith(name) == 2 for name in ("base", "SFT", "PPO")), rest
        assert "There is no /nwe" in rest or number, rest
    assert [one for one in ours if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert remove_shared_memory(before) == []
    assert not [path for path in temporary.iterdir() if not path.name.startswith(("ray", "torchinductor_"))]
