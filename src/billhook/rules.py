"""Rules for kinds of models, made from a model: ``rules=billhook.rules.transformer(model)``."""

from torch import nn

from billhook.errors import ConfigurationError
from billhook.selection import Rules, named_weights

__all__ = ["transformer"]


def transformer(model: nn.Module) -> Rules:
    """Rules that prune a transformer's blocks and leave dense what lies around them.

    Embeddings, patch projections, poolers and output heads stay dense. The blocks are the entries
    of every ``ModuleList`` or ``Sequential`` whose entries are of one class, each with several
    weight matrices. Embeddings inside blocks (T5's relative positions) stay dense too.

    Args:
        model: A transformer: of transformers, timm, ``nn.TransformerEncoder``, or your own.

    Returns:
        None for the full name of each weight matrix that stays dense. Add rules of your own with
        ``{**billhook.rules.transformer(model), "encoder.layers.0.*": 0.5}``.

    Raises:
        ConfigurationError: The model has no such blocks.

    Example:
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> encoder = nn.TransformerEncoder(layer, num_layers=2)
        >>> model = nn.ModuleDict({"embed": nn.Embedding(9, 8), "body": encoder})
        >>> transformer(model)
        {'embed.weight': None}
    """
    blocks = _blocks(model)
    if not blocks:
        raise ConfigurationError(
            f"{type(model).__name__} has no blocks: no ModuleList or Sequential whose entries are "
            "of one class with several weight matrices; write rules by name, or leave rules out "
            "to prune every weight matrix"
        )
    return {
        weight.name: None
        for weight in named_weights(model)
        if weight.kind == "weight matrix"
        and (
            any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module, _ in weight.owners)
            or not any(id(module) in blocks for module, _ in weight.owners)
        )
    }


def _blocks(model: nn.Module) -> set[int]:
    """The modules that lie in a block, by identity."""
    inside: set[int] = set()
    for container in model.modules():
        if not isinstance(container, nn.ModuleList | nn.Sequential):
            continue
        entries = list(container.children())
        if len({type(entry) for entry in entries}) == 1 and all(map(_is_block, entries)):
            inside.update(id(module) for entry in entries for module in entry.modules())
    return inside


def _is_block(module: nn.Module) -> bool:
    matrices = [weight for weight in named_weights(module) if weight.kind == "weight matrix"]
    return len(matrices) > 1
