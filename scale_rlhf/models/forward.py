"""The one forward: every log-probability, value and score that a loss or a server sees comes from here."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from scale_rlhf.experience.packing import Pack


def response_logprobs(model: nn.Module, pack: Pack, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the response tokens, and the entropy of the distribution each was drawn from.

    model: a causal language model, or a DeepSpeed engine around one. Logits are divided by the sampling
    temperature, as in generation, and computed for response positions alone. Returns two float32 [N].
    """
    log_distribution = _log_distribution(model, pack, temperature)
    entropy = -(log_distribution.detach().exp() * log_distribution.detach()).sum(-1)
    return _of_targets(log_distribution, pack), entropy


def response_logprobs_alone(model: nn.Module, pack: Pack, temperature: float) -> torch.Tensor:
    """`response_logprobs` without the entropy, bit for bit, for who does not read it: two fewer [N, vocabulary]. float32 [N]."""
    return _of_targets(_log_distribution(model, pack, temperature), pack)


def response_values(model: nn.Module, pack: Pack) -> torch.Tensor:
    """Value of the state before each response token: float32 [N]. model: a ScalarHead, or an engine around one."""
    return model(**_inputs(pack), keep=pack.predicts).float()


def sample_scores(model: nn.Module, pack: Pack) -> torch.Tensor:
    """Score of each sample, read at its last real token: float32 [S], or [S, A] of a model with A of them.

    model: a ScalarHead, for several scores ScoreHeads, or an engine around one.
    """
    return model(**_inputs(pack), keep=pack.last).float()


def _log_distribution(model: nn.Module, pack: Pack, temperature: float) -> torch.Tensor:
    """log p of every token at every response position: float32 [N, vocabulary]."""
    with _kept(model, pack) as positions:
        logits = model(**_inputs(pack), logits_to_keep=positions).logits[0].float() / temperature
    return torch.log_softmax(logits, dim=-1)


@contextmanager
def _kept(model: nn.Module, pack: Pack) -> Iterator[torch.Tensor | int]:
    """Logits at the places that predict, as [1, N, vocabulary]. The library chooses places within one row; of several rows
    they are taken in front of the head.
    """
    if len(pack.input_ids) == 1:
        yield pack.predicts
        return
    head = getattr(model, "module", model).get_output_embeddings()
    chosen = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].flatten(0, 1)[pack.predicts][None],))
    try:
        yield 0  # all
    finally:
        chosen.remove()


def _of_targets(log_distribution: torch.Tensor, pack: Pack) -> torch.Tensor:
    return log_distribution.gather(-1, pack.targets[:, None])[:, 0]


def _inputs(pack: Pack) -> dict:
    # Without attention_mask=None *and* use_cache=False transformers attends across packed samples, silently.
    return {"input_ids": pack.input_ids, "position_ids": pack.position_ids, "attention_mask": None, "use_cache": False}


class ScoreHeads(nn.Module):
    """The numbers of a token from a sequence-classification model, one a label, so that what is trained is what is saved.

    The library's own forward takes the last token that is not padding, which a packed row does not have;
    here the caller says which positions to keep.
    """

    def __init__(self, classifier: nn.Module):
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids, position_ids, attention_mask, use_cache, keep) -> torch.Tensor:
        """keep: [K] places, counted through all rows. Returns [K, labels]."""
        backbone = self.classifier.base_model
        hidden = backbone(
            input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask, use_cache=use_cache,
        ).last_hidden_state.flatten(0, 1)[keep]
        return self.classifier.score(hidden)


class ScalarHead(ScoreHeads):
    """The same with one label."""

    def forward(self, *inputs, **named) -> torch.Tensor:
        """Arguments as above. Returns [K]."""
        return super().forward(*inputs, **named)[:, 0]
