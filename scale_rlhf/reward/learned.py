"""A learned reward: a sequence-classification model, or an ensemble of them, served like the reference.

A model with several labels gives a score for each; they are mixed by the weights of `reward.aspects`, and the scores of
several models are combined as `reward.combine` says, both in the process that computes them.

A model with the policy's vocabulary reads the policy's tokens as they are. Any other reads the text, through its own
chat template and tokenizer. A decoder is packed and read at the last real token; an encoder (BERT and its like) has no
last token to read and sees both ways, so it goes through the library's own forward, padded and masked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from scale_rlhf.cluster.device import device
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import ConfigError
from scale_rlhf.experience.packing import in_rows, pack
from scale_rlhf.experience.sample import Prompt, Sample
from scale_rlhf.models.forward import sample_scores
from scale_rlhf.models.frozen.fleet import FrozenFleet
from scale_rlhf.models.frozen.work import smallest_sample
from scale_rlhf.models.loading import is_classifier, load_scores, offline_if_local
from scale_rlhf.orchestration.health import Budget, Health
from scale_rlhf.reward.ensemble import Ensemble, Score
from scale_rlhf.reward.interface import finite_scores
from scale_rlhf.reward.text import Reader, read_tokenizer
from scale_rlhf.telemetry.spans import Span


@dataclass
class Encoded:
    """One text as an encoder reads it."""

    fields: dict[str, list[int]]  # input_ids, attention_mask, and token_type_ids where the model has them

    @property
    def tokens(self) -> int:
        return len(self.fields["input_ids"])


@dataclass
class Scores:
    """The scores of each sample by one model. policy: folder or hub name of the model whose tokens the samples are made of."""

    path: str
    policy: str
    dtype: str
    attention: str
    trust_remote_code: bool
    encoder: bool = False  # found out by `load`, as are the tokenizers
    own: Any = field(default=None, repr=False)  # the reward model's tokenizer; None: it reads the policy's tokens
    reader: Reader | None = field(default=None, repr=False)
    limit: int = 0  # longest text in tokens, where the model reads its own
    labels: list[str] = field(default_factory=list)
    regression: bool = False  # its numbers are scores, not logits of classes

    def load(self) -> nn.Module:
        config = self._config()
        self.labels = [config.id2label[place] for place in range(config.num_labels)]
        self.regression = config.problem_type == "regression"
        model = load_scores(self.path, dtype=self.dtype, attention=self.attention, trust_remote_code=self.trust_remote_code)
        self.encoder = not hasattr(model.classifier, "score")
        own = read_tokenizer(self.path, trust_remote_code=self.trust_remote_code)
        theirs = read_tokenizer(self.policy, trust_remote_code=self.trust_remote_code)
        if self.encoder or own.get_vocab() != theirs.get_vocab():
            self.own, self.reader = own, Reader(theirs)
            own.truncation_side = "left"  # where a text is too long, its end matters most
            self.limit = min(own.model_max_length, getattr(config, "max_position_embeddings", None) or own.model_max_length)
        return model.classifier if self.encoder else model

    def prepare(self, samples: Sequence[Sample]) -> list[Sample | Encoded]:
        if self.own is None:
            return list(samples)
        return [self._encode(sample) if self.encoder else self._reread(sample) for sample in samples]

    def compute(self, model: Callable, items: Sequence[Sample | Encoded]) -> torch.Tensor:
        """[items, labels], float32."""
        if self.encoder:
            return self._padded(model, items)
        return sample_scores(model, pack(items, in_rows(self.attention)).to(device())).cpu()

    def filler(self) -> Sample | Encoded:
        return Encoded(dict(self.own("", ""))) if self.encoder else smallest_sample()

    def _config(self) -> Any:
        from transformers import AutoConfig

        with offline_if_local(self.path):
            try:
                config = AutoConfig.from_pretrained(self.path, trust_remote_code=self.trust_remote_code)
            except (OSError, ValueError) as error:
                raise ConfigError(f"reward.model: no model could be read at {self.path}: {error}") from error
        if not is_classifier(config):
            raise ConfigError(f"reward.model: expected a sequence-classification model at {self.path}, "
                              f"found {config.architectures}; train one with the reward stage, or name one")
        return config

    def _reread(self, sample: Sample) -> Sample:
        """The same dialogue in the reward model's own tokens, all of it as prompt."""
        ids = np.asarray(self._dialogue_ids(sample)[-self.limit:], np.int32)
        return replace(sample, prompt=Prompt(sample.index, sample.prompt.group, ids), response_ids=ids[:0])

    def _dialogue_ids(self, sample: Sample) -> list[int]:
        response = self.reader.response(sample)
        if self.own.chat_template is None:
            return self.own(self.reader.prompt(sample.prompt) + response)["input_ids"]
        messages = [*self.reader.messages(sample.prompt), {"role": "assistant", "content": response}]
        return self.own.apply_chat_template(messages, tokenize=True, return_dict=False)

    def _encode(self, sample: Sample) -> Encoded:
        """Prompt and response as the pair of texts that cross-encoders are trained on."""
        pair = self.reader.prompt(sample.prompt), self.reader.response(sample)
        return Encoded(dict(self.own(*pair, truncation=True, max_length=self.limit)))

    def _padded(self, model: Callable, items: Sequence[Encoded]) -> torch.Tensor:
        inputs = self.own.pad([item.fields for item in items], return_tensors="pt").to(device())
        return model(**inputs).logits.float().cpu()


class LearnedReward:
    """Replicas of a reward model, or of an ensemble. model, policy: folders or hub names."""

    def __init__(self, config: RunConfig, model: str, policy: str, budget: Budget | None = None, namespace: str | None = None):
        section = config.reward
        members = [Scores(path, policy, section.dtype, config.model.attention, config.model.trust_remote_code)
                   for path in (model, *section.ensemble)]
        work = Ensemble(members, section.aspects, section.combine, section.deviation_coefficient)
        self._parts: dict[str, list[float]] = {}  # since the last `metrics`
        self._fleet = FrozenFleet("reward", work, section, config.limits, budget, namespace)
        self._who = f"reward model {work.path}"

    @property
    def health(self) -> Health:
        return self._fleet.health

    async def start(self, options: Sequence[Sequence[dict]] | None = None, probe: Sequence[Sample] = ()) -> None:
        await self._fleet.start(options)
        if probe:
            await self.score(probe, fixed=True, group=0)
            await self.metrics()  # the probe is not part of the run

    async def score(self, samples: Sequence[Sample], *, fixed: bool, group: int) -> list[float]:
        found: list[Score] = await self._fleet.compute(samples, fixed=fixed, group=group, what="scoring")
        scores = finite_scores([one.score for one in found], len(samples), self._who)
        for one in found:
            for name, value in one.parts.items():
                self._parts.setdefault(name, []).append(value)
        return scores

    async def metrics(self) -> dict[str, float]:
        """Of the fleet; aspect_NAME_mean of a model with several, ensemble_deviation_mean of several models."""
        parts, self._parts = self._parts, {}
        return await self._fleet.metrics() | {f"{name}_mean": sum(values) / len(values) for name, values in parts.items()}

    async def spans(self) -> dict[str, list[Span]]:
        """What each replica did since the last call, by lane of the timeline."""
        return await self._fleet.spans()

    def close(self) -> None:
        self._fleet.close()
