"""The work of ``billhook prune``: the tensors of a file, pruned at once."""

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from billhook import torch_private
from billhook.allocation import Allocation
from billhook.errors import ConfigurationError
from billhook.format import save
from billhook.format.interchange import read, read_metadata
from billhook.format.save_report import SaveReport
from billhook.granularity import Granularity
from billhook.oneshot import prune
from billhook.report import PruningReport
from billhook.selection import named_weights

__all__ = ["prune_file"]


def prune_file(
    source: Path,
    target: Path,
    sparsity: float,
    *,
    granularity: Granularity,
    allocation: Allocation,
    dense: Sequence[str],
) -> tuple[PruningReport, SaveReport]:
    """Prune every floating-point matrix or larger tensor of ``source`` into ``target``.

    Raises:
        ConfigurationError: the files are one, a glob matches nothing, or nothing is left to prune.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigurationError(
            f"{source} would be overwritten: give --out another name, so that the dense weights "
            "are still there if the result is not what you want"
        )
    tensors = read(source, None)
    matrices = [name for name, each in tensors.items() if _is_prunable(each)]
    for pattern in dense:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in matrices):
            raise ConfigurationError(
                f"--dense {pattern!r} matches none of the tensors to prune: "
                f"{', '.join(matrices[:5])}{', ...' if len(matrices) > 5 else ''}"
            )
    chosen = [n for n in matrices if not any(fnmatch.fnmatchcase(n, p) for p in dense)]
    if not chosen:
        raise ConfigurationError(
            f"nothing is left to prune among the {len(tensors)} tensors of {source}: pruned are "
            "floating-point tensors of two or more dimensions"
        )
    model, pruned = _as_module(tensors, chosen)
    report = prune(
        model,
        sparsity,
        granularity=granularity,
        allocation=allocation,
        rules={weight.name: sparsity for weight in named_weights(model)},
    )
    result = {name: pruned.get(name, tensor) for name, tensor in tensors.items()}
    return report, save(result, target, metadata=read_metadata(source))


def _is_prunable(tensor: Tensor) -> bool:
    return tensor.dim() >= 2 and tensor.is_floating_point() and tensor.itemsize >= 2


def _as_module(
    tensors: Mapping[str, Tensor], chosen: Sequence[str]
) -> tuple[nn.Module, dict[str, Tensor]]:
    """A module of the chosen tensors, under their names; tensors that share memory are one."""
    root = nn.Module()
    found: dict[tuple[int, torch.Size], nn.Parameter] = {}
    pruned: dict[str, Tensor] = {}
    for name in chosen:
        tensor = tensors[name]
        key = tensor.data_ptr(), tensor.shape
        parameter = found.setdefault(key, nn.Parameter(tensor.clone(), requires_grad=False))
        pruned[name] = parameter.detach()
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in torch_private.children_of(module):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, parameter)
    return root, pruned
