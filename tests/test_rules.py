"""billhook.rules: blocks are pruned, embeddings and heads are not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import billhook
from billhook.errors import ConfigurationError

SMALL: Any = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}


def bert() -> nn.Module:
    config = hf.BertConfig(vocab_size=32, num_hidden_layers=2, **SMALL)
    return hf.BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=32, n_embd=8, n_head=2, n_layer=2))


def t5() -> nn.Module:
    config = hf.T5Config(vocab_size=32, d_model=8, d_ff=16, d_kv=4, num_heads=2, num_layers=2)
    return hf.T5ForConditionalGeneration(config)


def vit() -> nn.Module:
    config = hf.ViTConfig(num_hidden_layers=1, image_size=8, patch_size=4, **SMALL)
    return hf.ViTForImageClassification(config)


DENSE: dict[Callable[[], nn.Module], set[str]] = {
    bert: {
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.token_type_embeddings.weight",
        "bert.pooler.dense.weight",
        "classifier.weight",
    },
    gpt2: {"transformer.wte.weight", "transformer.wpe.weight"},
    t5: {
        "shared.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    },
    vit: {"vit.embeddings.patch_embeddings.projection.weight", "classifier.weight"},
}


@pytest.mark.parametrize("make", DENSE, ids=lambda make: make.__name__)
def test_the_blocks_alone_are_pruned(make: Callable[[], nn.Module]) -> None:
    model = make()
    rules = billhook.rules.transformer(model)
    assert set(rules) - {"lm_head.weight"} == DENSE[make]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, billhook.OneShot(0.5), rules=rules)
    names = {weight.name for weight, _ in pruner.selection.pruned}
    assert names
    assert not names & set(rules)
    pruner.detach()


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no blocks"):
        billhook.rules.transformer(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
