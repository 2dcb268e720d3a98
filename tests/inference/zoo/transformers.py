"""Small models of the package transformers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Inputs = tuple[Any, ...]
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def ids() -> Inputs:
    return (torch.randint(0, 99, (1, 11)),)


def padded(*between: None, left: bool = False, number: torch.dtype = torch.int64) -> Inputs:
    """Two sentences, of 8 words and of 11, with the mask that a tokenizer returns."""
    words, mask = torch.randint(2, 99, (2, 11)), torch.ones(2, 11, dtype=number)
    missing = slice(3) if left else slice(8, None)
    words[0, missing], mask[0, missing] = 1, 0
    return (words, *between, mask)


def bert(**settings: Any) -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=99, max_position_embeddings=32, **SMALL, **settings))


def roberta() -> nn.Module:
    """Whose positions are counted over the words that are no padding."""
    from transformers import RobertaConfig, RobertaModel

    return RobertaModel(RobertaConfig(vocab_size=99, max_position_embeddings=32, **SMALL))


def distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    sizes: dict[str, Any] = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    return DistilBertModel(DistilBertConfig(vocab_size=99, max_position_embeddings=32, **sizes))


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2Model

    sizes: dict[str, Any] = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = GPT2Config(vocab_size=99, use_cache=False, bos_token_id=0, eos_token_id=0, **sizes)
    return GPT2Model(config)


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    return ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL))


def whisper() -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4}
    more: dict[str, Any] = {"encoder_ffn_dim": 64, "max_source_positions": 20, "num_mel_bins": 8}
    return WhisperEncoder(WhisperConfig(**sizes, **more))


def t5() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return T5EncoderModel(T5Config(vocab_size=99, **sizes))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(LlamaConfig(vocab_size=99, num_key_value_heads=2, use_cache=False, **SMALL))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs]]] = {
    "BERT": (bert, ids),
    "BERT, padded": (bert, padded),
    "BERT, padded, eager": (lambda: bert(attn_implementation="eager"), padded),
    "RoBERTa, padded": (roberta, padded),
    "DistilBERT, padded": (distilbert, lambda: padded(number=torch.bool)),
    "GPT-2": (gpt2, ids),
    "GPT-2, padded": (gpt2, lambda: padded(None, left=True)),
    "ViT": (vit, lambda: (torch.rand(1, 3, 32, 32),)),
    "Whisper": (whisper, lambda: (torch.rand(1, 8, 40),)),
    "T5": (t5, ids),
    "T5, padded": (t5, padded),
    "Llama": (llama, ids),
}
