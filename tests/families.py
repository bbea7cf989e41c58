"""Tiny random models in the shape of well-known families, and an encoder that scores text: Hugging Face folders."""

from pathlib import Path

import torch

from tests.tiny import END, PAD, TEXT, tiny_config, tiny_tokenizer

WINDOW = 6  # of sliding attention: shorter than the samples, so that it shows
VOCABULARY = 320
ODD_VOCABULARY = 311  # no multiple of 64, as GPT-2's 50257: the engine fills it up
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
_COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "max_position_embeddings": 256,
    "initializer_range": 0.1, "pad_token_id": PAD, "eos_token_id": END, "bos_token_id": None,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _gpt2():
    """distilgpt2's layout: learned positions, Conv1D, biases, tied embeddings, a vocabulary of an odd size."""
    from transformers import GPT2Config

    return GPT2Config(vocab_size=ODD_VOCABULARY, n_embd=64, n_layer=2, n_head=2, n_positions=256, initializer_range=0.1,
                      pad_token_id=PAD, eos_token_id=END, bos_token_id=END)


def _llama():
    """Llama 3.1: untied, grouped queries, stretched rotary positions."""
    from transformers import LlamaConfig

    return LlamaConfig(**_COMMON, **_HEADS, tie_word_embeddings=False, rope_parameters=_LLAMA3_ROPE)


def _mistral():
    """Mistral 7B v0.1: every layer sees a sliding window."""
    from transformers import MistralConfig

    return MistralConfig(**_COMMON, **_HEADS, tie_word_embeddings=False, sliding_window=WINDOW)


def _gemma():
    """Gemma: scaled embeddings, tied; norms of 1 + weight."""
    from transformers import GemmaConfig

    return GemmaConfig(**_COMMON, **_HEADS, tie_word_embeddings=True)


def _gemma2():
    """Gemma 2: also capped attention scores and logits, norms around each block, every other layer with a window."""
    from transformers import Gemma2Config

    return Gemma2Config(**_COMMON, **_HEADS, tie_word_embeddings=True, sliding_window=WINDOW, query_pre_attn_scalar=32,
                        attn_logit_softcapping=2.0, final_logit_softcapping=5.0)


def _gemma3():
    """Gemma 3's text model: norms of the heads, layers with a window and rotary positions of their own."""
    from transformers import Gemma3TextConfig

    return Gemma3TextConfig(**_COMMON, **_HEADS, tie_word_embeddings=True, sliding_window=WINDOW, query_pre_attn_scalar=32,
                            layer_types=["sliding_attention", "full_attention"])


FAMILIES = {
    "gpt2": _gpt2, "llama": _llama, "mistral": _mistral, "qwen3": tiny_config, "gemma": _gemma, "gemma2": _gemma2,
    "gemma3": _gemma3,
}
ATTENTION = dict.fromkeys(FAMILIES, "sdpa") | {"gemma2": "eager"}  # sdpa leaves the cap of Gemma 2's scores out


def family_policy(folder: Path, family: str, seed: int = 0) -> Path:
    """A causal language model of that family, with a tokenizer of its vocabulary."""
    from transformers import AutoModelForCausalLM

    return _made(AutoModelForCausalLM, folder, family, seed)


def family_classifier(folder: Path, family: str, seed: int = 1) -> Path:
    """A sequence-classification model with one score: a reward model, or a value model's start."""
    from transformers import AutoModelForSequenceClassification

    return _made(AutoModelForSequenceClassification, folder, family, seed, num_labels=1)


def tiny_encoder(folder: Path, context: int = 24) -> Path:
    """A BERT that scores a pair of texts, with a WordPiece tokenizer: lower case, [CLS] … [SEP] … [SEP], segment ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=160, special_tokens=special, show_progress=False))
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=pieces, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_max_length=context, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    torch.manual_seed(2)
    model = BertForSequenceClassification(BertConfig(
        vocab_size=pieces.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        num_labels=1, max_position_embeddings=context, initializer_range=0.3, pad_token_id=0,
    ))
    model.save_pretrained(folder)
    return Path(folder)


def _made(kind, folder: Path, family: str, seed: int, **settings) -> Path:
    torch.manual_seed(seed)
    config = FAMILIES[family]()
    for name, value in settings.items():
        setattr(config, name, value)
    model = kind.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # biases and norms begin at 0 or 1, where a mistake with them would not show
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return tiny_tokenizer(folder, vocabulary=config.vocab_size)
