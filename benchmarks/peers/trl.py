"""TRL's GRPOTrainer on CPU, held between blocks of optimizer steps."""

import os
import threading
import time
from typing import Any

from benchmarks.peer import serve


def distinct_tokens(completion_ids: list[list[int]], **row) -> list[float]:
    """The cheapest reward that is not constant: the share of a response's tokens that differ."""
    return [len(set(ids)) / max(1, len(ids)) for ids in completion_ids]


class Trl:
    """The trainer runs in a thread of its own, and waits at the end of every step until it is asked for more."""

    def __init__(self, model: str, dtype: str, threads: int, prompts: list[str], group: int, response: int, samples: int,
                 microbatch: int, beta: float):
        """prompts: text. group: responses of a prompt. response: tokens of each. samples: of a step. microbatch: of a forward."""
        import torch

        torch.set_num_threads(threads)
        self.samples, self.folder = samples, model
        self.asked, self.ended = threading.Semaphore(0), threading.Semaphore(0)
        self.failure: BaseException | None = None
        settings = _settings(model, dtype, group, response, samples, microbatch, beta)
        self.trainer = _trainer(model, prompts, settings, self._callback())
        threading.Thread(target=self._train, daemon=True).start()

    def block(self, steps: int) -> dict[str, float]:
        """So many optimizer steps."""
        started = time.perf_counter()
        for _ in range(steps):
            self.asked.release()
            self.ended.acquire()
            if self.failure:
                raise self.failure
        seconds = time.perf_counter() - started
        return {"seconds": seconds / steps, "rate": steps * self.samples / seconds}

    def _train(self) -> None:
        try:
            self.trainer.train()
        except BaseException as failure:  # noqa: BLE001 - told to whoever waits
            self.failure = failure
            self.ended.release()

    def _callback(self) -> Any:
        from transformers import TrainerCallback

        outer = self

        class Hold(TrainerCallback):
            """Generation, scoring and the update of a step all come after its beginning."""

            def on_step_begin(self, *arguments, **named) -> None:
                outer.asked.acquire()

            def on_step_end(self, *arguments, **named) -> None:
                outer.ended.release()

        return Hold()


def _settings(model: str, dtype: str, group: int, response: int, samples: int, microbatch: int, beta: float) -> dict[str, Any]:
    return {
        "output_dir": os.path.join(model, "trl"), "use_cpu": True, "bf16": dtype == "bfloat16", "fp16": False,
        "per_device_train_batch_size": microbatch, "gradient_accumulation_steps": samples // microbatch,
        "num_generations": group, "max_completion_length": response, "generation_kwargs": {"min_new_tokens": response},
        "num_iterations": 1, "beta": beta, "learning_rate": 1e-5, "max_steps": 100_000, "temperature": 1.0,
        "gradient_checkpointing": False,  # its default costs it a fifth of its speed
        "save_strategy": "no", "report_to": [], "logging_steps": 100_000, "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "float32"}, "seed": 0,
    }


def _trainer(model: str, prompts: list[str], settings: dict[str, Any], callback: Any) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    return GRPOTrainer(model, reward_funcs=distinct_tokens, args=GRPOConfig(**settings), callbacks=[callback],
                       train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]))


if __name__ == "__main__":
    serve(Trl)
