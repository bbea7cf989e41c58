"""The comparison of methods: what it plans is fair and valid, what is done stays done, and its table says what runs found."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from scale_rlhf.config.checks import check
from scale_rlhf.config.load import load_config
from scale_rlhf.config.methods import ADVANTAGES, LOSSES
from scale_rlhf.errors import ConfigError
from scale_rlhf.orchestration.run_folder import RunFolder
from tests.comparison import __main__ as comparison
from tests.comparison.jobs import check_settings, jobs, seconds_left
from tests.comparison.methods import METHODS, Budget
from tests.comparison.table import Measured, lines, markdown, rows, write
from tests.tiny import tiny_classifier, tiny_policy

CONFIG = comparison.ROOT / "configs" / "quickstart.yaml"
BUDGET = Budget(steps=10, samples=64, group=8)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder in which seed 0 has its SFT and reward models, and every method has made its own."""
    folder = tmp_path_factory.mktemp("comparison")
    tiny_policy(folder / "seed-0" / "models" / "sft")
    tiny_classifier(folder / "seed-0" / "models" / "reward")
    for name, method in METHODS.items():
        (folder / f"seed-0-{name}" / "models").mkdir(parents=True)
        (folder / f"seed-0-{name}" / "models" / method.stage).symlink_to(folder / "seed-0" / "models" / "sft")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_every_run_would_start_and_no_method_sees_more_than_another(models, method):
    start, made, judged = jobs(models, [0], [method], BUDGET)
    for job in (start, made, judged):
        check(load_config(CONFIG, job.overrides), starts=False)
    config = load_config(CONFIG, made.overrides)
    ppo, sizes = config.ppo, {"dpo": 2 * (config.dpo.max_steps or 0) * config.dpo.batch_size,
                              "best_of_n": (config.best_of_n.prompts or 0) * config.best_of_n.responses_per_prompt}
    sizes["ppo"] = ppo.steps * ppo.prompts_per_step * ppo.responses_per_prompt
    assert sizes[METHODS[method].stage] == BUDGET.total == 640
    assert load_config(CONFIG, judged.overrides).policy.model == str(made.path / "models" / METHODS[method].stage)


def test_every_method_of_the_registry_is_compared():
    keys = {key for method in METHODS.values() for key in method.keys(BUDGET)}
    assert {f"ppo.advantages={name}" for name in ADVANTAGES} <= keys
    assert {f"ppo.loss={name}" for name in LOSSES if name != "ppo"} <= keys


def test_all_of_a_seed_differ_in_the_method_alone(models):
    """From the same models, data and seed; evaluated with the same configuration."""
    def configs(kind):
        return [load_config(CONFIG, job.overrides) for job in jobs(models, [3], list(METHODS), BUDGET, ["evaluation.prompts=9"])
                if kind(job.kind)]

    for one in configs(lambda kind: kind in METHODS):
        assert (one.run.seed, one.data.practice.seed, one.evaluation.prompts) == (3, 3, 9)
        assert {one.policy.model, one.dpo.model, one.best_of_n.model} - {None} == {str(models / "seed-3" / "models" / "sft")}
    judged = configs(lambda kind: kind == "evaluation")
    for one in judged:
        one.run.name, one.policy.model = judged[0].run.name, judged[0].policy.model
    assert all(one == judged[0] for one in judged)


def done(job, seconds: float, table: dict | None = None) -> None:
    """As the command line leaves a run."""
    folder = RunFolder.create(load_config(CONFIG, job.overrides))
    for stage in folder.state()["stages"]:
        folder.set_stage(stage, "done", seconds=seconds - 1)
    folder.note(seconds=seconds)
    if table:
        (folder.stage("evaluation") / "table.json").write_text(json.dumps({"models": table}))


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    table = {"sft": {"score": 3.0, "perplexity": 35.0}, "ppo": {"score": 4.5, "win_rate": 0.8, "kl": 2.0, "perplexity": 34.0}}
    made = []

    def make(config, job):
        made.append(job.name)
        if job.name != "seed-1-rloo":
            done(job, 60.0, table if job.kind == "evaluation" else None)
        return job.name != "seed-1-rloo"

    monkeypatch.setattr(comparison, "_make", make)
    command = ["--folder", str(tmp_path), "--methods", "ppo,rloo", "--steps", "10", "--seeds"]
    assert comparison.main([*command, "1"]) == 0
    assert made == ["seed-0", "seed-0-ppo", "seed-0-ppo-evaluation", "seed-0-rloo", "seed-0-rloo-evaluation"]
    made.clear()
    assert comparison.main([*command, "2"]) == 1
    assert made == ["seed-1", "seed-1-ppo", "seed-1-ppo-evaluation", "seed-1-rloo"]
    assert "failed: seed-1-rloo-evaluation; it needs seed-1-rloo" in capsys.readouterr().out
    rows = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    assert rows["PPO"]["score"] == {"mean": 4.5, "deviation": 0.0} and rows["PPO"]["seconds"]["mean"] == 59.0
    assert rows["SFT"]["perplexity"]["mean"] == 35.0 and "kl" not in rows["SFT"]
    assert "| PPO | 4.50 ± 0.00 | 0.80 ± 0.00 |" in (tmp_path / "comparison.md").read_text()


def test_ctrl_c_shows_what_there_is(tmp_path, monkeypatch, capsys):
    def make(config, job):
        if job.name == "seed-0-rloo":
            raise KeyboardInterrupt
        done(job, 60.0, {"sft": {"score": 3.0}, "ppo": {"score": 4.5}} if job.kind == "evaluation" else None)
        return True

    monkeypatch.setattr(comparison, "_make", make)
    assert comparison.main(["--folder", str(tmp_path), "--methods", "ppo,rloo", "--steps", "10", "--seeds", "1"]) == 130
    said = capsys.readouterr().out
    assert "stopped; the same command goes on" in said and "4.50" in said and "RLOO" not in said


def test_runs_made_with_other_settings_are_not_taken_for_these(tmp_path):
    planned = jobs(tmp_path, [0], ["grpo"], BUDGET)
    done(planned[1], 60.0)
    check_settings(CONFIG, planned)
    with pytest.raises(ConfigError, match=r"seed-0-grpo: this run was made with other settings: ppo.steps: 10 → 11. Give"):
        check_settings(CONFIG, jobs(tmp_path, [0], ["grpo"], Budget(11, 64, 8)))


def test_a_wrong_key_is_found_before_anything_is_made(tmp_path, capsys):
    assert comparison.main(["--folder", str(tmp_path), "ppo.stepz=1"]) == 2
    assert "did you mean `ppo.steps`?" in capsys.readouterr().out and not list(tmp_path.iterdir())
    assert comparison.main(["--folder", str(tmp_path), "--samples", "100"]) == 2
    assert "expected a multiple of --group (8), found 100" in capsys.readouterr().out


def test_an_unknown_method_names_the_nearest(capsys):
    with pytest.raises(SystemExit):
        comparison.main(["--methods", "ppo,grop"])
    assert "did you mean grpo?" in capsys.readouterr().err


def test_time_left_is_that_of_each_kind():
    assert seconds_left([], ["models"]) is None
    seen = [("models", 200.0), ("ppo", 100.0), ("ppo", 120.0), ("evaluation", 30.0)]
    assert seconds_left(seen, ["models", "ppo", "evaluation"]) == 200 + 110 + 30
    assert seconds_left(seen, ["grpo"]) == 110  # not seen yet: as other methods
    assert seconds_left(seen[:1], ["grpo"]) == 200


def test_the_table_has_mean_and_deviation_over_seeds(tmp_path):
    found = [Measured("PPO", 0, {"score": 4.0, "kl": 2.0}), Measured("PPO", 1, {"score": 5.0}),
             *(Measured("SFT", seed, {"score": 3.0 + seed}) for seed in (0, 0, 1, 1)), Measured("DPO", 0, {"score": 3.5})]
    made = rows(found)
    assert list(made) == ["SFT", "PPO", "DPO"]
    assert made["PPO"]["score"].mean == 4.5 and made["PPO"]["score"].deviation == pytest.approx(0.5**0.5)
    assert made["SFT"]["score"].deviation == pytest.approx(0.5**0.5)  # once a seed
    assert made["PPO"]["kl"].deviation is None
    text = lines(found)
    assert text[2][:2] == ["PPO", "4.50 ± 0.71"] and text[3][1] == "3.50" and text[2][2] == "–"
    assert markdown(found, "As run.").splitlines()[2].startswith("| SFT | 3.50 ± 0.71 | – |")
    write(found, "As run.", {"steps": 1}, tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text())["rows"]["DPO"]["score"] == {"mean": 3.5, "deviation": None}


def test_progress_says_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "_make", lambda config, job: done(job, 120.0) or True)
    console = Console(record=True, width=100, force_terminal=False, file=(tmp_path / "out").open("w"))
    planned = jobs(tmp_path, [0], ["ppo"], BUDGET)
    done(planned[0], 120.0)
    assert comparison.run(CONFIG, planned, console) == []
    assert console.export_text().splitlines() == [
        "1 of 3 runs are done already", "2/3 seed-0-ppo, about 4 min left", "3/3 seed-0-ppo-evaluation, about 2 min left",
    ]
