"""How much each tensor's sparsity costs by itself, without training."""

import contextlib
import dataclasses
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from billhook.criterion import Criterion, Magnitude
from billhook.draw import needs
from billhook.errors import ConfigurationError, StateError
from billhook.granularity import Granularity, Unstructured
from billhook.oneshot import prune
from billhook.render import Table, as_text
from billhook.selection import Rules, select_weights

__all__ = ["SPARSITIES", "Sensitivity", "sensitivity"]

#: The sparsities that a scan tries unless told others.
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The metric of a network in which one tensor is pruned; prints as a table.

    ``metrics[name][sparsity]`` is the metric with that tensor alone at that sparsity, ``dense`` the
    metric of the unpruned network.
    """

    dense: float
    metrics: Mapping[str, Mapping[float, float]]

    def rules(self, tolerance: float, *, higher_is_better: bool = True) -> dict[str, float | None]:
        """Rules to paste: each tensor's highest sparsity that costs no more than ``tolerance``.

        A tensor that costs more at every sparsity is left dense (None). Costs add up when all
        tensors are pruned together, and training recovers much of them: take these numbers as an
        order among the tensors rather than as the loss to come.

        Args:
            tolerance: in the units of the metric.
            higher_is_better: False for losses and perplexities.
        """
        sign = 1.0 if higher_is_better else -1.0
        found: dict[str, float | None] = {}
        for name, metrics in self.metrics.items():
            good = [s for s, metric in metrics.items() if sign * (self.dense - metric) <= tolerance]
            found[name] = max(good, default=None)
        return found

    def __rich__(self) -> Table:
        sparsities = sorted({each for metrics in self.metrics.values() for each in metrics})
        rows = [
            (name, *(f"{metrics[s]:.4g}" if s in metrics else "" for s in sparsities))
            for name, metrics in self.metrics.items()
        ]
        title = f"One tensor pruned at a time; {self.dense:.4g} with none"
        return Table(title, ("tensor", *(f"{s:g}" for s in sparsities)), rows)

    def __str__(self) -> str:
        return as_text(self)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the metric over the sparsity, one line per tensor, as .png, .svg or .html.

        Needs the ``study`` extra.
        """
        import altair as alt

        records = [
            {"tensor": name, "sparsity": sparsity, "metric": metric}
            for name, metrics in self.metrics.items()
            for sparsity, metric in ((0.0, self.dense), *metrics.items())
        ]
        base = alt.Chart({"values": records}).mark_line(point=True)
        chart = base.encode(
            x=alt.X("sparsity:Q", axis=alt.Axis(format="%")),
            y=alt.Y("metric:Q", scale=alt.Scale(zero=False)),
            color=alt.Color("tensor:N", sort=list(self.metrics)),
        )
        chart.properties(width=560, height=320).save(os.fspath(path))


def sensitivity(
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    sparsities: Sequence[float] = SPARSITIES,
    *,
    criterion: Criterion = Magnitude(),
    granularity: Granularity = Unstructured(),
    rules: Rules | None = None,
    file: str | os.PathLike[str] | None = None,
    metric: str = "",
) -> Sensitivity:
    """Prune one tensor at a time, at each sparsity, and evaluate. The model is left as it was.

    Args:
        model: a trained network.
        evaluate: the metric of a network, a finite number; called once for each tensor and
            sparsity, and once before, without gradients. It decides about evaluation mode, data
            and device.
        sparsities: the sparsities to try, each in (0, 1).
        criterion, granularity: as for :func:`billhook.prune`; criteria that need data are refused.
        rules: tensors to leave out ({name: None}) or to bring in; sparsities in them do not count.
        file: results are written there as they come, and not measured again when the scan is
            repeated with the same weights and parts.
        metric: what ``evaluate`` measures, and on which data; kept in ``file``, so that no other
            metric goes on there.

    Raises:
        ConfigurationError: a sparsity is out of bounds, or the criterion needs data.
        StateError: ``file`` is of other weights, parts or metric, or ``evaluate`` gave no finite
            number.

    >>> model = nn.Linear(4, 2)
    >>> scan = sensitivity(model, lambda net: float(net.weight.detach().count_nonzero()), (0.5,))
    >>> scan.dense, scan.metrics
    (8.0, {'weight': {0.5: 4.0}})
    >>> scan.rules(tolerance=5.0)
    {'weight': 0.5}
    """
    for each in sparsities:
        if not 0.0 < each < 1.0:
            raise ConfigurationError(f"sparsity {each} is outside (0, 1): use 0.5 to 0.99")
    if needs(criterion) != "weight":
        raise ConfigurationError(
            f"{criterion} needs {needs(criterion)}: scan with Magnitude(), or call billhook.prune "
            "on copies of the model yourself"
        )
    names = [weight.name for weight, _ in select_weights(model, rules, 0.5).pruned]
    log = _Log(file, _identity(model, criterion, granularity), metric)
    dense = log.measure("", 0.0, lambda: evaluate(model))
    metrics: dict[str, dict[float, float]] = {}
    for name in names:
        others = {other: None for other in names if other != name}
        for share in sparsities:

            def pruned(name: str = name, share: float = share, others: Any = others) -> float:
                with _restored(model.get_parameter(_path(model, name))):
                    only = {**(rules or {}), **others, name: share}
                    prune(model, share, criterion=criterion, granularity=granularity, rules=only)
                    return evaluate(model)

            metrics.setdefault(name, {})[share] = log.measure(name, share, pruned)
    return Sensitivity(dense, metrics)


class _Log:
    """The measurements, one line of JSON each, so that an interrupted scan can continue."""

    def __init__(self, path: str | os.PathLike[str] | None, identity: str, metric: str) -> None:
        self._path = None if path is None else Path(path)
        self._known: dict[tuple[str, float], float] = {}
        if self._path is None:
            return
        if not self._path.exists():
            self._path.write_text(json.dumps({"scan": identity, "metric": metric}) + "\n")
            return
        lines = self._path.read_text().splitlines()
        try:
            first, *rest = [json.loads(line) for line in lines]
            if first["scan"] != identity:
                raise StateError(
                    f"{path} is a scan of other weights, or with another criterion or granularity: "
                    "give another file"
                )
            if first.get("metric", "") != metric:
                raise StateError(
                    f"{path} is a scan of {first.get('metric') or 'another metric'!r}, this one is "
                    f"of {metric!r}: give another file"
                )
            self._known = {(r["tensor"], r["sparsity"]): r["metric"] for r in rest}
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(f"{path} is not the file of a scan: give another one") from error

    def measure(self, name: str, share: float, metric: Callable[[], float]) -> float:
        """The metric, measured unless it is known."""
        if (name, share) not in self._known:
            with torch.no_grad():
                value = float(metric())
            if not math.isfinite(value):
                raise StateError(
                    f"evaluate gave {value} for {name or 'the dense model'!r} at sparsity {share:g}"
                )
            self._known[name, share] = value
            if self._path is not None:
                record = {"tensor": name, "sparsity": share, "metric": value}
                with self._path.open("a") as lines:
                    lines.write(json.dumps(record) + "\n")
        return self._known[name, share]


def _identity(model: nn.Module, criterion: Criterion, granularity: Granularity) -> str:
    digest = 0
    for name, parameter in model.named_parameters():
        digest = zlib.crc32(name.encode(), digest)
        values = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest = zlib.crc32(values.numpy().tobytes(), digest)
    return f"{digest:08x} {criterion!r} {granularity!r}"


def _path(model: nn.Module, name: str) -> str:
    """The name by which the model itself knows a parameter of this canonical name."""
    wanted = next(w for w, _ in select_weights(model, {name: 0.5}, 0.5).pruned if w.name == name)
    return next(path for path, p in model.named_parameters() if p is wanted.parameter)


@contextlib.contextmanager
def _restored(parameter: Tensor) -> Iterator[None]:
    before = parameter.detach().clone()
    try:
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(before)
