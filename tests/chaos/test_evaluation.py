"""A whole run with evaluation during training, an engine and the controller killed, equals one without, to the bit."""

import pytest

from tests.chaos.faults import STEPS, Run, lines, same_run
from tests.chaos.test_faults import DONE_AGAIN


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_is_evaluated_twice_and_no_sample_is_another(home, undisturbed):
    run = Run(home, "evaluated", "evaluation.every=1", "evaluation.during_prompts=3",
              "evaluation.judge=tests.chaos.test_evaluation:judge")
    try:
        for role in ("vllm", "controller"):
            before = len(run.steps())
            run.until(lambda before=before: len(run.steps()) > before + 1)
            run.send(role)
        said = run.finish()
    finally:
        run.clean()
    assert "the controller was ended by SIGKILL; the run goes on" in said
    same_run(run.folder, undisturbed, but=DONE_AGAIN)
    found = lines(run.folder / "metrics" / "held_out.jsonl")
    versions = [line["step"] for line in found]
    assert versions == sorted(set(versions)) and {0, STEPS} <= set(versions) and len(versions) >= STEPS - 1, versions
    assert all(line["evaluate/version"] == line["step"] and line["evaluate/score"] > 0 for line in found)
    answers = [line["version"] for line in lines(run.folder / "ppo" / "held_out.jsonl")]
    assert sorted(set(answers)) == versions and len(answers) % len(versions) == 0


def judge(prompt: str, response: str) -> dict[str, float]:
    return {"score": 1.0 + len(response) + prompt.startswith("say")}
