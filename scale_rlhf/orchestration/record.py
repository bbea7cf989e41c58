"""What a person sees of a PPO run, and what stays of it: a line a step, metrics, the timeline, every sample."""

import json
import os
from array import array
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.disk import writing
from scale_rlhf.errors import DiskError
from scale_rlhf.experience.buffer import Scored
from scale_rlhf.experience.sample import Sample
from scale_rlhf.orchestration import ledger
from scale_rlhf.orchestration.checkpoint import discard_after
from scale_rlhf.orchestration.evaluations import Evaluation
from scale_rlhf.orchestration.held_out_log import HeldOutLog, wanted
from scale_rlhf.orchestration.loop import Step
from scale_rlhf.orchestration.loop_state import LoopState
from scale_rlhf.orchestration.run_folder import RunFolder
from scale_rlhf.orchestration.step_metrics import slowest
from scale_rlhf.telemetry import logs


class Record:
    """Call `go_back` with where the loop begins, then `step` after each version; again when it begins anew."""

    def __init__(self, config: RunConfig, folder: RunFolder, tokenizer):
        self.config, self.folder, self.tokenizer = config, folder, tokenizer
        self.place: Path = folder.stage("ppo")
        self.first: dict[str, float] = {}  # metrics of the first and the last step: all of them would grow without end
        self.last: dict[str, float] = {}
        self.seconds = array("f")  # of every step
        self.shown = 0  # steps that the progress bar shows
        self.held_out: HeldOutLog | None = None  # where there are evaluations
        self.news = ""  # of evaluations, that no step's line has told of
        self.files = ExitStack()

    def __enter__(self) -> "Record":
        from scale_rlhf.telemetry.progress import stage_progress

        self.stack = ExitStack()
        self.stack.callback(self._close)
        self.progress = self.stack.enter_context(stage_progress("ppo", self.config.ppo.steps))
        return self

    def __exit__(self, kind, *error) -> None:
        try:
            self.stack.close()
        except DiskError:
            if kind is None:  # files that cannot be written cannot be closed either, and the first error says why
                raise

    def tell(self, line: str) -> None:
        """A line for whoever watches, beside the progress, and for the log."""
        self.progress.tell(line)
        logs.LOGGER.info("%s", line)

    def go_back(self, state: LoopState) -> None:
        """The loop begins at this state: what the files tell of later steps is void."""
        from scale_rlhf.telemetry.metrics import MetricsLog, read_metrics
        from scale_rlhf.telemetry.timeline import Timeline

        self._close()
        undone = ledger.go_back(self.place, state)
        discard_after(self.place / "checkpoints", state.version)
        self.files = ExitStack()
        with writing(self.place):
            self._open_held_out(state.version)
            self.log = MetricsLog(self.folder, "ppo", after=state.version, steps=self.config.ppo.steps)
            self.files.callback(self.log.close)
            self.timeline = Timeline(self.folder.timeline, goes_on=state.version > 0)
            self.files.callback(self.timeline.close)
            self.samples = self.files.enter_context(open(self.place / ledger.TRAINED, "a", encoding="utf-8"))
            self.filtered = self.files.enter_context(open(self.place / ledger.FILTERED, "a", encoding="utf-8"))
        self.first, self.seconds = {}, array("f")
        for numbers in read_metrics(self.folder.metrics("ppo")):
            self._remember(numbers)
        self.progress.advance(state.version - self.shown)
        self.shown = state.version
        if state.version or undone:
            void = f"; {undone} samples of later steps are void" if undone else ""
            self.tell(f"ppo goes on from step {state.version}{void}")

    def _open_held_out(self, version: int) -> None:
        self.held_out, self.news = None, ""
        if wanted(self.folder, self.config.evaluation.every):
            self.held_out = HeldOutLog(self.folder, self.tokenizer, after=version)
            self.files.callback(self.held_out.close)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Held-out prompts were answered by a version; the next step's line tells of it."""
        self.news += "  " + self.held_out.add(evaluation)

    def step(self, step: Step) -> None:
        """One line with what matters; details go to files."""
        numbers = step.metrics
        logs.at_step(step.version + 1)
        self._remember(numbers)
        self.log.log(step.version, numbers)
        self.timeline.add(step.lanes)
        lines = [self._line(step.version, one) for one in step.batch]
        with writing(self.samples.name):
            self.samples.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            self.samples.flush()
        self.shown = step.version
        said = (f"score {numbers['reward/score_mean']:+.3f}  KL {numbers['kl/reference_mean']:.2f}  "
                f"{numbers['response/tokens_mean']:.0f} tokens  {numbers['time/step']:.1f} s  slowest: "
                f"{slowest(numbers)}{self.news}")
        self.news = ""
        self.progress.advance(1, said)
        logs.LOGGER.info("version %d of %d: %s", step.version, self.config.ppo.steps, said)

    def filter(self, sample: Sample, reason: str) -> None:
        """A sample that will not be trained on."""
        line = {"index": sample.index, "filtered": reason, "prompt_ids": sample.prompt.token_ids.tolist(),
                "response_ids": sample.response_ids.tolist()}
        with writing(self.filtered.name):
            self.filtered.write(json.dumps(line, ensure_ascii=False) + "\n")
            self.filtered.flush()

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        self.log.sync()
        for file in (self.samples, self.filtered):
            with writing(file.name):
                file.flush()
                os.fsync(file.fileno())

    def account(self, admitted: int) -> dict[str, int]:
        """At the end of a run: that every sample admitted was trained once, or filtered."""
        if self.news:
            self.tell(f"ppo{self.news}")  # of the last version
        self._close()
        return ledger.account(self.place, admitted)

    def summary(self) -> dict[str, float]:
        """Of the whole history, whatever was resumed in between."""
        first, last = self.first, self.last
        return {
            "score_first": first["reward/score_mean"], "score_last": last["reward/score_mean"], "kl": last["kl/reference_mean"],
            "steps": len(self.seconds), "seconds_a_step": round(float(np.median(self.seconds)), 4),
        }

    def _remember(self, numbers: dict[str, float]) -> None:
        self.first, self.last = self.first or numbers, numbers
        self.seconds.append(numbers["time/step"])

    def _close(self) -> None:
        with writing(self.place):
            self.files.close()

    def _line(self, version: int, scored: Scored) -> dict:
        sample, reference = scored.sample, scored.reference_logprobs
        messages = sample.prompt.row.get("messages")
        return {
            "step": version, "index": sample.index,
            "prompt": messages[-1]["content"] if messages else sample.prompt.token_ids.tolist(),
            "response": self.tokenizer.decode(sample.response_ids, skip_special_tokens=True),
            "score": scored.score, "ended": sample.ended,
            **({} if scored.baseline is None else {"baseline": scored.baseline}),
            "kl": float((sample.logprobs - reference).sum(dtype=np.float64)), "tokens": len(sample.response_ids),
            "logprob": float(sample.logprobs.sum(dtype=np.float64)), "prompt_ids": sample.prompt.token_ids.tolist(),
            "response_ids": sample.response_ids.tolist(),
        }
