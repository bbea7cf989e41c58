"""Activations by arithmetic, against every tensor that lives while the real forward and the real loss run."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from scale_rlhf.algorithms.losses import ppo_policy_loss
from scale_rlhf.config.sizing import activations, shapes
from scale_rlhf.experience.packing import pack
from scale_rlhf.models.forward import response_logprobs, response_logprobs_alone
from tests import tiny

SIZES = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
         "intermediate_size": 896, "tie_word_embeddings": False}
TOKENS, LONGEST = 512, 256


class Living(TorchDispatchMode):
    """Bytes of the tensors made inside that are alive, and the most that ever were; the model's own are left out."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.now = self.most = 0
        self.seen = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.seen:
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def made(family: str, vocabulary: int, dtype: torch.dtype, attention: str, checkpointing: bool):
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    kind, config = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen3": (Qwen3ForCausalLM, Qwen3Config)}[family]
    model = kind(config(**SIZES, vocab_size=vocabulary, attn_implementation=attention)).to(dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def forget(model: torch.nn.Module) -> None:
    """Drop every gradient once it is whole, as ZeRO 2 and 3 do: it is counted with the buffers."""
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda one: setattr(one, "grad", None))


def predicted(family: str, vocabulary: int, element: int, attention: str) -> activations.Forward:
    shape = shapes.from_config(SIZES | {"model_type": family, "vocab_size": vocabulary}, family)
    return activations.Forward(shape, TOKENS, LONGEST, element, attention)


def micro_batch(vocabulary: int):
    """Two rows of one token of prompt and the rest response: nearly every place has logits."""
    response = (LONGEST - 1, LONGEST - 1)
    return pack([tiny.samples(1, seed, vocabulary, prompt=(1, 1), response=response)[0] for seed in (0, 1)], True)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("vocabulary", [64, 8000])
def test_what_is_kept_for_the_backward(family, dtype, attention, vocabulary):
    """Without checkpointing the most is at the start of the backward, before there are gradients."""
    model, batch = made(family, vocabulary, dtype, attention, False), micro_batch(vocabulary)
    with Living(model) as living:
        logprobs, _ = response_logprobs(model, batch, 0.7)
        zeros, everywhere = torch.zeros_like(logprobs), torch.ones_like(logprobs).bool()
        loss = ppo_policy_loss(logprobs, zeros, zeros + 1, everywhere, clip_low=0.2, clip_high=0.2)
        forget(model)
        loss.backward()
    forward = predicted(family, vocabulary, dtype.itemsize, attention)
    ours = activations.trained(forward, False) + activations.trained_logits(forward)
    assert living.most <= ours <= 1.35 * living.most, (living.most, ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocabulary", [64, 8000])
def test_with_checkpointing(dtype, vocabulary):
    model, batch = made("llama", vocabulary, dtype, "sdpa", True), micro_batch(vocabulary)
    with Living(model) as living:
        logprobs, _ = response_logprobs(model, batch, 0.7)
        forget(model)
        logprobs.sum().backward()
    forward = predicted("llama", vocabulary, dtype.itemsize, "sdpa")
    ours = activations.trained(forward, True) + activations.trained_logits(forward)
    assert living.most <= ours <= 1.4 * living.most, (living.most, ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("vocabulary", [64, 8000])
def test_without_gradients(dtype, vocabulary):
    model, batch = made("llama", vocabulary, dtype, "sdpa", False), micro_batch(vocabulary)
    with torch.no_grad(), Living(model) as living:
        response_logprobs_alone(model, batch, 0.7)
    forward = predicted("llama", vocabulary, dtype.itemsize, "sdpa")
    ours = activations.scored(forward) + activations.scored_logits(forward)
    assert living.most <= ours <= 1.4 * living.most, (living.most, ours)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_of_instruction_tuning(dtype):
    model = made("llama", 8000, dtype, "sdpa", False)
    ids = torch.randint(8000, (TOKENS // LONGEST, LONGEST))
    with Living(model) as living:
        output = model(input_ids=ids, labels=ids, use_cache=False)
        forget(model)
        output.loss.backward()
    forward = predicted("llama", 8000, dtype.itemsize, "sdpa")
    ours = activations.trained(forward, False) + activations.supervised_logits(forward)
    assert living.most <= ours <= 1.35 * living.most, (living.most, ours)
