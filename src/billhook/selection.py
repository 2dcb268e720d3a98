"""Which tensors are pruned: chosen by module type or by name, each to its own sparsity."""

import dataclasses
import fnmatch
import numbers
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from billhook import torch_private
from billhook.errors import ConfigurationError
from billhook.reparametrised import computed_by
from billhook.schedule import Schedule

__all__ = ["Rules", "Selection", "Weight", "named_weights", "select_weights"]

#: Name pattern or module class -> final sparsity, a schedule, or None to leave the tensor dense.
Rules = Mapping[str | type[nn.Module], float | Schedule | None]

_WHOLE = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, torch_private.ConvNd)
_CUBES = (nn.Bilinear, torch_private.ConvNd)  # three dimensions that are not a stack
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_NORMS = (
    torch_private.Norm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_WRAPPED = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}


@dataclasses.dataclass(frozen=True)
class Weight:
    """One parameter of a model with all its names and owners; tied weights are one ``Weight``."""

    names: tuple[str, ...]
    parameter: nn.Parameter
    owners: tuple[tuple[nn.Module, str], ...]

    @property
    def name(self) -> str:
        """The first canonical name."""
        return self.names[0]

    @property
    def pattern_shape(self) -> torch.Size:
        """The shape that patterns see: a stack of matrices, such as a mixture of experts' (experts,
        out, in), is one matrix (experts * out, in); convolutions and all others are as they are.
        """
        shape = self.parameter.shape
        if len(shape) != 3 or any(isinstance(module, _CUBES) for module, _ in self.owners):
            return shape
        return torch.Size((shape[0] * shape[1], shape[2]))

    @property
    def kind(self) -> str:
        """``weight matrix`` if it is pruned by default, else what it is instead."""
        if any(_is_matrix(module, attribute) for module, attribute in self.owners):
            return "weight matrix"
        module, attribute = self.owners[0]
        if (cause := computed_by(module, attribute)) is not None:
            return f"under {cause}"
        if "bias" in attribute:
            return "bias"
        return "norm" if isinstance(module, _NORMS) else "other"


@dataclasses.dataclass(frozen=True)
class Selection:
    """The outcome: what is pruned, to which final sparsity, and what stays dense and why."""

    pruned: tuple[tuple[Weight, float], ...]
    dense: tuple[tuple[Weight, str], ...]
    #: Schedules that rules gave, by the name of the weight.
    schedules: Mapping[str, Schedule] = dataclasses.field(default_factory=dict)

    def schedule_of(self, weight: Weight, default: Schedule) -> Schedule:
        """The schedule of a pruned weight: its rule's, or ``default`` towards its own target."""
        if weight.name in self.schedules:
            return self.schedules[weight.name]
        target = next(target for each, target in self.pruned if each is weight)
        return default if target == default.final_sparsity else default.towards(target)

    def __str__(self) -> str:
        count = sum(weight.parameter.numel() for weight, _ in self.pruned)
        total = count + sum(weight.parameter.numel() for weight, _ in self.dense)
        targets = sorted({target for _, target in self.pruned if target})
        aim = f"to sparsity {', '.join(f'{t:g}' for t in targets)}" if targets else "as they are"
        lines = [
            f"billhook prunes {len(self.pruned)} tensors, {count:,} of {total:,} parameters, {aim}."
        ]
        reasons: dict[str, list[Weight]] = {}
        for weight, reason in self.dense:
            reasons.setdefault(reason, []).append(weight)
        for reason, weights in reasons.items():
            names = ", ".join(weight.name for weight in weights[:3])
            more = f", and {len(weights) - 3} more" if len(weights) > 3 else ""
            size = sum(weight.parameter.numel() for weight in weights)
            lines.append(f"  left dense ({reason}, {size:,} parameters): {names}{more}")
        return "\n".join(lines)


def named_weights(model: nn.Module) -> list[Weight]:
    """Every parameter of ``model`` under its canonical names, in registration order.

    Wrappers do not count in a canonical name: torch.compile's ``_orig_mod``, the ``module`` of
    DistributedDataParallel, DataParallel and AveragedModel, checkpoint and FSDP wrappers, opacus's.
    """
    found: dict[int, list[tuple[str, nn.Module, str]]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for path, module in _named_modules(model, ""):
        for attribute, parameter in torch_private.parameters_of(module).items():
            if parameter is not None:
                places = found.setdefault(id(parameter), [])
                parameters[id(parameter)] = parameter
                if not any(owner is module for _, owner, _ in places):
                    places.append((f"{path}{attribute}", module, attribute))
    return [
        Weight(
            tuple(name for name, _, _ in places),
            parameters[key],
            tuple((module, attribute) for _, module, attribute in places),
        )
        for key, places in found.items()
    ]


def _named_modules(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    yield path, module
    transparent = isinstance(
        module,
        (
            nn.parallel.DistributedDataParallel,
            nn.DataParallel,
            torch.optim.swa_utils.AveragedModel,
        ),
    )
    for name, child in torch_private.children_of(module).items():
        if child is not None:
            wrapped = name in _WRAPPED or (transparent and name == "module")
            wrapped = wrapped or (name == "_module" and type(module).__name__ == "GradSampleModule")
            yield from _named_modules(child, path if wrapped else f"{path}{name}.")


def _is_matrix(module: nn.Module, attribute: str) -> bool:
    if isinstance(module, _RECURRENT):
        return attribute.startswith("weight_")
    if isinstance(module, nn.MultiheadAttention):
        return attribute in _ATTENTION
    return attribute == "weight" and (isinstance(module, _WHOLE) or _is_transformers_conv1d(module))


def _is_transformers_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, of shape (in, out); known without an import of transformers."""
    kinds = ((base.__module__, base.__name__) for base in type(module).__mro__)
    return ("transformers.pytorch_utils", "Conv1D") in kinds


def select_weights(model: nn.Module, rules: Rules | None, default: float) -> Selection:
    """Decide for every parameter of ``model`` whether and how far it is pruned.

    By default every weight matrix of Linear, Conv*, Embedding, RNN, LSTM, GRU, their cells and
    MultiheadAttention (and of transformers' Conv1D) is pruned to ``default``; biases, norms, frozen
    and unknown parameters are not. A rule's key is, from the strongest rank to the weakest: the
    full name of a parameter (which brings in any parameter), the full name of a module (its own
    weight matrices), a glob over the names of weight matrices and of their modules, a module class.
    The name and the class of a module that torch does not know bring in its own parameters of two
    dimensions and more. A rule is obeyed for frozen weights too. A tied weight answers to all its
    names.

    Raises:
        ConfigurationError: a rule matches nothing, two rules of equal rank match one tensor, a
            sparsity is outside [0, 1), or nothing is left to prune.
    """
    weights = named_weights(model)
    rules = rules or {}
    for pattern, target in rules.items():
        _check_rule(pattern)
        if target is None or isinstance(target, Schedule):
            continue
        if isinstance(target, bool) or not isinstance(target, numbers.Real):
            raise ConfigurationError(
                f"rule {_show(pattern)!r} has the value {target!r}: give a sparsity, for example "
                "0.9, a schedule, or None to leave the tensor dense"
            )
        if not 0.0 <= target < 1.0:
            raise ConfigurationError(
                f"rule {_show(pattern)!r} sets sparsity {target}, which is outside [0, 1): give "
                "the share of zeros, or None to leave the tensor dense"
            )
    used: set[str | type[nn.Module]] = set()
    pruned: list[tuple[Weight, float]] = []
    schedules: dict[str, Schedule] = {}
    dense: list[tuple[Weight, str]] = []
    for weight in weights:
        matching = _strongest(weight, rules)
        used.update(pattern for pattern in rules if _rank(weight, pattern))
        target = default if matching is None else rules[matching]
        if matching is not None and target is None:
            dense.append((weight, "by rule"))
        elif matching is None and weight.kind != "weight matrix":
            dense.append((weight, weight.kind))
        elif not weight.parameter.requires_grad and matching is None:
            dense.append((weight, "frozen"))
        else:
            assert target is not None
            if isinstance(target, Schedule):
                schedules[weight.name] = target
                target = target.final_sparsity
            pruned.append((weight, target))
    _check_used(rules, used, weights)
    if not pruned:
        raise ConfigurationError(
            f"nothing is selected for pruning among the {len(weights)} parameters of "
            f"{type(model).__name__}: {_proposal(weights, default)}"
        )
    return Selection(tuple(pruned), tuple(dense), schedules)


def _rank(weight: Weight, pattern: str | type[nn.Module]) -> int:
    """The rank of a rule's key for a weight: 0 if it does not match, 4 for the full name."""
    if pattern in weight.names:
        return 4
    modules = [name.rpartition(".")[0] for name in weight.names]
    if weight.kind not in ("weight matrix", "other") or not _is_wide(weight.parameter):
        return 0
    if isinstance(pattern, type):
        by_class = any(isinstance(module, pattern) for module, _ in weight.owners)
        return int(by_class and (weight.kind == "weight matrix" or not _is_torchs(pattern)))
    if pattern in modules:
        return 3
    if weight.kind != "weight matrix":
        return 0
    return 2 if any(fnmatch.fnmatchcase(name, pattern) for name in (*weight.names, *modules)) else 0


def _is_wide(parameter: nn.Parameter) -> bool:
    return is_lazy(parameter) or parameter.dim() > 1


def _is_torchs(kind: type[nn.Module]) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


def _strongest(weight: Weight, rules: Rules) -> str | type[nn.Module] | None:
    ranks = {pattern: rank for pattern in rules if (rank := _rank(weight, pattern))}
    best = [pattern for pattern, rank in ranks.items() if rank == max(ranks.values())]
    if len(best) > 1:
        raise ConfigurationError(
            f"rules {', '.join(repr(_show(p)) for p in best)} match {weight.name!r} with equal "
            f"rank: name it in full to decide, for example {{{weight.name!r}: ...}}"
        )
    return best[0] if best else None


def _proposal(weights: list[Weight], target: float) -> str:
    """Which parameter to name in ``rules`` when nothing is selected: the largest one."""
    shaped = [weight for weight in weights if not is_lazy(weight.parameter)]
    best = max(shaped, key=lambda w: (w.parameter.dim() > 1, w.parameter.numel()), default=None)
    if best is None:
        return "none of them has values"
    under = f" (it is {best.kind})" if best.kind.startswith("under ") else ""
    return f'name a parameter in rules, for example rules={{"{best.name}": {target:g}}}{under}'


def _check_used(rules: Rules, used: set[str | type[nn.Module]], weights: list[Weight]) -> None:
    names = [name for weight in weights for name in weight.names]
    for pattern in rules:
        if pattern in used:
            continue
        hint = "the names are those of model.named_parameters()"
        if isinstance(pattern, str):
            hidden = [w for w in weights if w.kind.startswith("under ") and _is_below(w, pattern)]
            if hidden:
                best = max(hidden, key=lambda weight: weight.parameter.numel())
                hint = (
                    f"its weight is {best.kind}, computed from other parameters: name the one "
                    f"behind it, {best.name!r}, or make it a parameter again first"
                )
            elif any(name.startswith(f"{pattern}.") for name in names):
                hint = f"to match everything below this module, write {pattern + '.*'!r}"
            elif any(fnmatch.fnmatchcase(name, pattern) for name in names):
                hint = (
                    "it fits only parameters that are not weight matrices (biases, norms, ...); "
                    "to prune one all the same, name it in full"
                )
        raise ConfigurationError(f"rule {_show(pattern)!r} matches nothing to prune: {hint}")


def _is_below(weight: Weight, pattern: str) -> bool:
    return any(
        name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern)
        for name in weight.names
    )


def _check_rule(pattern: object) -> None:
    if not isinstance(pattern, str) and not (
        isinstance(pattern, type) and issubclass(pattern, nn.Module)
    ):
        raise ConfigurationError(
            f"{pattern!r} is not a key of rules: give the name of a parameter or module, a glob "
            "over names, or a class of modules"
        )


def _show(pattern: str | type[nn.Module]) -> str:
    return pattern if isinstance(pattern, str) else pattern.__name__
