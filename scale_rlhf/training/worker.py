"""A DeepSpeed rank: a model, its optimizer, and what policy and value have in common. Each rank is a Ray actor.

All ranks of a group are called together with the same arguments and make the same collectives in the same order.
"""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import distributed, nn

from scale_rlhf.cluster.device import device
from scale_rlhf.config.roles import TrainedRole
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.experience.packing import Pack, in_rows
from scale_rlhf.experience.sample import Sample
from scale_rlhf.models import loading, lora
from scale_rlhf.models.forward import ScalarHead
from scale_rlhf.orchestration.bad_numbers import BadNumbers
from scale_rlhf.orchestration.checksums import Described
from scale_rlhf.telemetry import logs
from scale_rlhf.telemetry.spans import Span, Spans, recorded
from scale_rlhf.training import batch as cutting
from scale_rlhf.training import deepspeed_config, process_group, state
from scale_rlhf.training.batch import Minibatch

Numbers = dict[str, float]
_LOGGED = ("loss", "gradient_norm", "seconds")


class TrainingWorker:
    """One rank. Subclasses say which model is loaded and what an update is."""

    role: str  # "policy" or "value": the section of the configuration
    listener: socket.socket | None = None  # rank 0's, until the group has met

    def __init__(self, config: RunConfig, path: str, rank: int, world: int):
        """path: folder or hub name of the model to start from."""
        self.config, self.path, self.rank, self.world = config, path, rank, world
        self.section: TrainedRole = getattr(config, self.role)
        self.spans = Spans()
        self.writer = ThreadPoolExecutor(1, "checkpoint")

    def node_address(self) -> tuple[str, int]:
        """(address of this process's node, a free port on it): where vLLM's own groups meet."""
        import ray

        return ray.util.get_node_ip_address(), process_group.free_port()

    def meeting_place(self) -> tuple[str, int]:
        """(address, port) where the ranks of this group meet; asked of rank 0, which holds the port until then."""
        import ray

        address = ray.util.get_node_ip_address()
        self.listener = process_group.meeting_place(address)
        return address, self.listener.getsockname()[1]

    def setup(self, address: str, port: int) -> Numbers:
        """Join the group, load the model and start DeepSpeed. Returns how long each took, in seconds."""
        started = time.perf_counter()
        torch.set_num_threads(self.section.threads)
        process_group.join(self.rank, self.world, address, port, self.config.limits.update_seconds, self.listener)
        return {"join": time.perf_counter() - started} | self.build()

    def build(self) -> Numbers:
        """The model as on disk, with a fresh optimizer: the state before the first update."""
        started = time.perf_counter()
        settings = deepspeed_config.deepspeed_config(self.section, self._hidden_size())
        with loading.sharded(settings):
            model = self.load(deepspeed_config.weights_dtype(self.section))
        if self.section.lora:
            lora.adapt(self.transformer(model), self.section.lora, f"{self.role}.lora", self.config.run.seed)
        if self.rank == 0:  # now: at the end of a run the folder may be gone
            self.tokenizer = loading.tokenizer_of(self.path, self.config.model.trust_remote_code)
        if self.section.gradient_checkpointing:
            self.transformer(model).gradient_checkpointing_enable({"use_reentrant": False})
        loaded = time.perf_counter()
        self.engine = self._initialize(model if self.section.zero_stage == 3 else model.to(device()), settings)
        self.engine.train()  # dropout is off in the model itself; checkpointing works in this mode alone
        seconds = {"load": loaded - started, "deepspeed": time.perf_counter() - loaded}
        logs.LOGGER.info("trains %s: loaded in %.1f s, DeepSpeed in %.1f s", self.path, *seconds.values())
        return seconds

    def load(self, dtype: str) -> nn.Module:
        """The model that is trained, in `dtype`."""
        raise NotImplementedError

    @property
    def updates(self) -> int:
        """Updates of the whole run, which the learning rate's schedule is laid over."""
        return self.config.ppo.steps

    @property
    def model_options(self) -> dict:
        """Options of `models.loading` that come from the configuration."""
        return {"attention": self.config.model.attention, "trust_remote_code": self.config.model.trust_remote_code}

    @staticmethod
    def transformer(model: nn.Module) -> nn.Module:
        """The Hugging Face model inside: its names are those on disk and in the engine."""
        return model.classifier if isinstance(model, ScalarHead) else model

    def named_weights(self, bucket_bytes: int = 64 << 20) -> Iterator[tuple[str, torch.Tensor]]:
        """(Hugging Face name, whole tensor) of every weight, tied ones once. Under ZeRO 3 parameters are gathered
        bucket by bucket, and a tensor is whole until the next is asked for: all ranks must iterate in step.
        """
        import deepspeed

        for bucket in _buckets(self.transformer(self.engine.module), bucket_bytes):
            parameters = [p for _, p in bucket if hasattr(p, "ds_id")]
            with deepspeed.zero.GatheredParameters(parameters, enabled=bool(parameters)):
                for name, parameter in bucket:
                    yield name, parameter.data

    @recorded("save")
    def save(self, folder: str) -> None:
        """Rank 0 writes a Hugging Face folder, with the tokenizer of the model that training started from; with LoRA the adapter
        also by itself, in a folder inside.
        """
        model = self.transformer(self.engine.module)
        if self.section.lora:
            self._save_adapted(model, folder)
            return
        gathered = {} if self.section.zero_stage == 3 else None
        if gathered is not None:
            for name, tensor in self.named_weights():
                if self.rank == 0:
                    gathered[name] = tensor.detach().to("cpu", copy=True)
            gathered |= {name: buffer.cpu() for name, buffer in loading.saved_buffers(model)}
        if self.rank == 0:
            loading.save_whole(model, folder, self.tokenizer, state=gathered)
        self._barrier()

    def _save_adapted(self, model: nn.Module, folder: str) -> None:
        exported = lora.export(model, self.path, keep=self.rank == 0)
        if self.rank == 0:
            loading.save_whole(model, folder, self.tokenizer, state=exported.weights,
                               beside=lambda place: lora.write(exported, place / lora.FOLDER))
        self._barrier()

    @recorded("checkpoint")
    def checkpoint(self, folder: str) -> None:
        """Copy this rank's state of training, and write it into `folder` while training goes on: ask `checkpointed`."""
        captured = state.capture(self.engine, self.transformer(self.engine.module), self.rank, self.world)
        self.writing = self.writer.submit(state.write, folder, self.rank, captured)

    def checkpointed(self) -> Described | None:
        """What this rank wrote; None while it still does. Raises RunError where it could not."""
        return self.writing.result() if self.writing.done() else None

    def restore(self, folder: str) -> None:
        """Go on from the state of training in `folder`, whose checksums were verified. All ranks together."""
        state.restore(self.engine, self.transformer(self.engine.module), folder, self.rank)

    def take_spans(self) -> list[Span]:
        """What this rank did since the last call."""
        return self.spans.take()

    def close(self) -> None:
        """Leave the group; the actor can then be ended."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def per_token(self, samples: Sequence[Sample], compute: Callable[[Pack], torch.Tensor]) -> list[np.ndarray]:
        """compute(pack) -> [N] for all samples, without gradients, shared among the ranks and known to all of them.

        Returns float32 [response tokens] for each sample.
        """
        lengths = [len(sample.response_ids) for sample in samples]
        ends = np.cumsum(lengths)
        whole = torch.zeros(int(ends[-1]), device=device())
        with torch.no_grad():
            for pack, places in self.forwards(samples, range(len(samples))):
                result = compute(pack).float()
                for place, part in zip(places, result.split(pack.lengths), strict=False):
                    whole[ends[place] - lengths[place] : ends[place]] = part
        distributed.all_reduce(whole)  # the others hold zeros there: the sum is exact
        return [part.copy() for part in np.split(whole.cpu().numpy(), ends[:-1])]

    def forwards(self, samples: Sequence[Sample], places: Sequence[int]) -> Iterator[tuple[Pack, list[int]]]:
        """This rank's packs over those places, on its device; as many on every rank."""
        budget, rows = self.config.ppo.tokens_per_microbatch, in_rows(self.config.model.attention)
        for pack, part in cutting.forwards(samples, places, rank=self.rank, ranks=self.world, budget=budget, rows=rows):
            yield pack.to(device()), part

    def optimize(
        self, samples: Sequence[Sample], version: int, loss: Callable[[Pack, list[int], Minibatch], tuple[torch.Tensor, dict]],
    ) -> Numbers:
        """Epochs over minibatches, one optimizer step each.

        loss(pack, places, minibatch): the pack's share of the minibatch's loss, which is a sum over tokens divided by a
        count of the whole minibatch on all ranks; and sums for metrics, which are added up over everything.
        Returns the sums, with "loss", "seconds", "tokens" (response tokens a second are their quotient), the mean
        "gradient_norm" before clipping, and the last "learning_rate".
        """
        started, sums, norms, steps = time.perf_counter(), {}, [], 0
        logs.at_step(version + 1)
        self.losses: list[tuple[torch.Tensor, list[int]]] = []  # of every micro-batch, with its places
        ppo, seed = self.config.ppo, self.config.run.seed
        for epoch in range(ppo.epochs):
            for places in cutting.minibatches(len(samples), ppo.minibatches, seed=seed, version=version, epoch=epoch):
                learning_rate = self.engine.get_lr()[0]
                norms.append(self._step(samples, places, loss, sums))
                steps += 1
        totals = self._added(sums)
        if not np.isfinite([totals["loss"], *norms]).all():
            self._bad(samples, totals["loss"], norms)
        numbers = {
            "loss": totals["loss"] / steps, "gradient_norm": float(np.mean(norms)), "learning_rate": learning_rate,
            "seconds": time.perf_counter() - started,
        }
        logs.LOGGER.info("updated: loss %.4g, gradient norm %.3g, %.2f s", *(numbers[key] for key in _LOGGED))
        return totals | numbers

    def _step(self, samples, places, loss, sums: dict) -> float:
        """One optimizer step on the samples at `places`. Returns the gradient norm before clipping."""
        minibatch = Minibatch(sum(len(samples[place].response_ids) for place in places), len(places))
        packs = list(self.forwards(samples, places))
        for number, (pack, part) in enumerate(packs):
            # DeepSpeed reduces (stages 0 and 1) and finishes its sums at the boundary: the last micro-batch.
            self.engine.set_gradient_accumulation_boundary(number == len(packs) - 1)
            value, metrics = loss(pack, part, minibatch)
            if not part:
                value, metrics = value * 0.0, {}
            self.losses.append((value.detach(), part))
            self.engine.backward(value * self.world, scale_wrt_gas=False)  # DeepSpeed averages over ranks: we want the sum
            for name, number_ in ({"loss": value.detach()} | metrics).items():
                sums[name] = sums.get(name, 0.0) + number_.double()
        norm = self._unwrapped_norm()
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        return float(norm)

    def _bad(self, samples: Sequence[Sample], loss: float, norms: list[float]) -> None:
        """Every rank raises the same error: the first micro-batch, of any rank, whose loss was no number."""
        mine = next((part for value, part in self.losses if part and not torch.isfinite(value)), [])
        ranks: list = [None] * self.world
        distributed.all_gather_object(ranks, mine)
        places = next((part for part in ranks if part), [])
        named = f", first on samples {[samples[place].index for place in places][:4]}" if places else ""
        gradient = next((norm for norm in norms if not np.isfinite(norm)), norms[-1])
        raise BadNumbers(f"{self.role}: the loss is {loss:g} and the gradient's norm {gradient:g}{named}. The weights of "
                         f"{self.role} are spoilt by it", [sample.index for sample in samples])

    def _unwrapped_norm(self) -> torch.Tensor | None:
        """Gradient norm where DeepSpeed keeps none: fp32 without ZeRO, where gradients are reduced in place by now."""
        if self.engine.zero_optimization() or self.engine.bfloat16_enabled():
            return None
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _added(self, sums: dict[str, torch.Tensor]) -> Numbers:
        """Sums over all ranks; every rank must have the same names, which a filler's forward does not give."""
        names: list = [None] * self.world
        distributed.all_gather_object(names, sorted(sums))
        names = sorted({name for rank in names for name in rank})
        zero = torch.zeros((), dtype=torch.float64, device=device())
        total = torch.stack([torch.as_tensor(sums.get(name, zero)).to(zero) for name in names])
        distributed.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def _initialize(self, model: nn.Module, settings: dict):
        import deepspeed

        ppo = self.config.ppo
        factor = deepspeed_config.learning_rate_factor(self.section, self.updates * ppo.epochs * ppo.minibatches)
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=deepspeed_config.optimizer(self.section, model.parameters()), config=settings,
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor), dist_init_required=False,
        )
        return engine

    def _hidden_size(self) -> int:
        return loading.model_config(self.path, self.config.model.trust_remote_code).get_text_config().hidden_size

    def _barrier(self) -> None:
        distributed.all_reduce(torch.zeros(1, device=device()))


def _buckets(model: nn.Module, size: int) -> Iterator[list[tuple[str, nn.Parameter]]]:
    bucket, filled = [], 0
    for name, parameter in model.named_parameters():
        cost = getattr(parameter, "ds_numel", parameter.numel()) * parameter.element_size()
        if bucket and filled + cost > size:
            yield bucket
            bucket, filled = [], 0
        bucket.append((name, parameter))
        filled += cost
    if bucket:
        yield bucket
