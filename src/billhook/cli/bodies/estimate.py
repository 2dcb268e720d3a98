"""What ``billhook estimate`` does: one model at several sparsities, pruned at once."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import billhook
from billhook.bench.measure import bench
from billhook.cli.bodies.bench import check_input, example_input, fill
from billhook.errors import ConfigurationError
from billhook.named_model import build_model
from billhook.render import Table

if TYPE_CHECKING:
    from billhook.tasks.task import Task

__all__ = ["Estimate", "as_table", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """A model at one sparsity.

    ``nonzero`` counts all parameters that are not zero, ``file_bytes`` the bytes of the file that
    ``billhook.save`` would write. ``eager_ms`` is torch's time for one call with these weights,
    ``compiled_ms`` that of the compiled model, of several rounds the fastest. ``score`` is
    ``metric`` on the test data.
    """

    sparsity: float
    nonzero: int
    file_bytes: int
    eager_ms: float
    compiled_ms: float
    metric: str | None = None
    score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)


def estimate(
    target: str,
    shape: str,
    sparsities: Sequence[float],
    *,
    weights: Path | None = None,
    data: Path | None = None,
    vocabulary: int | None = None,
    threads: int = 1,
) -> list[Estimate]:
    """The dense model, then the model at every sparsity.

    Args:
        target: a function of billhook.models or ``module:function``, arguments in parentheses.
        shape: the input's sides.
        sparsities: the share of the weight matrices that is zeroed, smallest magnitudes first.
        weights: a file of trained weights; random ones for None.
        data: a folder of pictures or text; its test part is evaluated.
        vocabulary: the input holds integers below this.
        threads: of every measurement.

    Raises:
        ConfigurationError: there is no such model, or weights, input or data do not fit it.

    >>> rows = estimate("torch.nn:Linear(in_features=64, out_features=64)", "1,64", [0.9])
    >>> [(row.sparsity, row.nonzero) for row in rows]
    [(0.0, 4160), (0.9, 474)]
    """
    if data is not None and weights is None:
        raise ConfigurationError(
            f"--data {data} is for trained weights, which random ones are not: give --weights too"
        )
    torch.manual_seed(0)
    model = build_model(target, device="cpu").eval()
    if weights is not None:
        fill(model, billhook.load(weights), f"{weights} does not fit {target}")
    x = example_input(shape, vocabulary)
    check_input(target, model, x)
    task = None if data is None else _task(model, data, x, vocabulary)
    wanted = sorted({0.0, *sparsities})
    pruned = (_pruned(model, sparsity) for sparsity in wanted)
    return [_row(s, each, x, task, threads) for s, each in zip(wanted, pruned, strict=True)]


def _pruned(model: nn.Module, sparsity: float) -> nn.Module:
    model = copy.deepcopy(model)
    if sparsity:
        rules: Any = getattr(model, "prune_rules", None)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        billhook.Pruner(model, optimizer, billhook.OneShot(sparsity), rules=rules).finalize()
    return model


def _row(
    sparsity: float, model: nn.Module, x: torch.Tensor, task: "Task | None", threads: int
) -> Estimate:
    timed = bench("", model, (x,), threads=threads, peers=("eager",))
    metric = score = None
    if task is not None:
        metric = task.metrics[0].name
        with torch.no_grad():
            score = float(task.evaluate(model, "test")[metric])
    return Estimate(
        sparsity,
        sum(int(each.detach().count_nonzero()) for each in model.parameters()),
        billhook.footprint(model).file_bytes(),
        timed.best("eager"),
        timed.best("billhook"),
        metric,
        score,
    )


def _task(model: nn.Module, data: Path, x: torch.Tensor, vocabulary: int | None) -> "Task":
    from billhook.tasks.build import build_task
    from billhook.tasks.recipe import load_recipe

    if vocabulary is not None:
        recipe = load_recipe("ptb_lstm", "laptop")
        return build_task(recipe, data, kind="language", model=model)
    if x.dim() != 4 or x.shape[1] != 3:
        raise ConfigurationError(
            f"--data are pictures, which come as N,3,H,W, and --input is {list(x.shape)}: leave "
            "--data out, or give --vocabulary for text"
        )
    recipe = load_recipe("mobilenet_v1", "laptop").changed(data={"pixels": x.shape[-1]})
    return build_task(recipe, data, kind="classification", model=model)


def as_table(target: str, rows: Sequence[Estimate]) -> Table:
    """The rows for people."""
    metric = rows[0].metric
    headings = ["sparsity", "nonzero", "file, bytes", "eager, ms", "compiled, ms", "times as fast"]
    cells = []
    for row in rows:
        line = [
            f"{row.sparsity:.1%}" if row.sparsity else "as it is",
            f"{row.nonzero:,}",
            f"{row.file_bytes:,}",
            f"{row.eager_ms:.3f}",
            f"{row.compiled_ms:.3f}",
            f"{rows[0].eager_ms / row.compiled_ms:.2f}",
        ]
        cells.append(line if row.score is None else [*line, f"{row.score:.2f}"])
    title = f"{target}, pruned at once and not trained"
    return Table(title, headings if metric is None else [*headings, metric], cells)
