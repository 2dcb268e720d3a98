"""What ``billhook study plan`` shows: every run before it is run, and the paper's own counts."""

from collections.abc import Iterator

from billhook import storage_table
from billhook.study.grid import LARGE, Plan, Trial
from billhook.study.published import published_storage, published_table
from billhook.study.report.sheet import Sheet
from billhook.tasks.families import FAMILIES

__all__ = ["sheets", "summary"]


def summary(plan: Plan, hours: float | None = None) -> str:
    """What will be trained, and its cost in multiply-adds and, if they are known, in hours."""
    total = sum(trial.training_operations for trial in plan.runs)
    study = plan.study
    each = len(study.learning_rates) * max(1, len(study.dropouts))
    tuned = "arm, size and seed" if study.tune == "each-seed" else "arm and size, on the first seed"
    return (
        f"Study {study.name}: {study.runs} runs, {len(plan.points)} sizes of file, "
        f"{len(study.seeds)} seeds, {each} trials for every {tuned}; "
        f"{total:.3g} multiply-adds of training in all"
        + ("" if hours is None else f", about {_duration(hours)} of one core and its evaluations")
        + f". Data: {study.data_description}."
    )


def _duration(hours: float) -> str:
    """
    >>> _duration(0.004), _duration(0.4), _duration(7.25)
    ('14 seconds', '24 minutes', '7.2 hours')
    """
    if hours < 1 / 30:
        return f"{hours * 3600:.0f} seconds"
    return f"{hours * 60:.0f} minutes" if hours < 1 else f"{hours:.1f} hours"


def sheets(plan: Plan) -> list[Sheet]:
    """The matched pairs, the runs and, at the paper's scale, the paper's tables for comparison."""
    return [_pairs(plan), _runs(plan), *_paper(plan)]


def _pairs(plan: Plan) -> Sheet:
    rows = [
        (
            f"{point.dense_bytes:,}",
            f"{point.width:g}",
            f"{point.sparsity:.3%}",
            f"{point.sparse_bytes:,}",
            f"{point.mismatch:+,} ({point.mismatch / point.dense_bytes:+.3%})",
        )
        for point in plan.points
    ]
    headings = "dense bytes", "dense width", "sparsity", "sparse bytes", "mismatch"
    return Sheet("Matched pairs", headings, tuple(rows))


def _runs(plan: Plan) -> Sheet:
    """One line for the runs that differ in seed, learning rate and dropout alone."""
    groups: dict[tuple[object, ...], list[Trial]] = {}
    for trial in plan.runs:
        groups.setdefault((*trial.group[:-1], trial.width, trial.sparsity), []).append(trial)
    dense = {trial.width: trial.expected_nonzero for trial in plan.trials if not trial.scheme}
    rows = []
    for trials in groups.values():
        first = trials[0]
        rows.append(
            (
                " ".join(each for each in (first.arm, first.scheme, first.variant) if each),
                "" if first.arm == LARGE else f"{first.point:,}",
                f"{first.width:g}",
                f"{first.sparsity:.2%}",
                f"{dense[first.width]:,}",
                f"{first.expected_nonzero:,}",
                f"{first.expected_bytes:,}",
                f"{first.steps:,}",
                f"{first.training_operations:.3g}",
                f"{first.inference_operations:,}",
                f"{len(trials)}",
            )
        )
    headings = (
        *("arm", "compared at", "width", "sparsity", "parameters", "NNZ", "bytes", "steps"),
        *("training", "inference", "runs"),
    )
    title = "Runs; training and inference in multiply-adds of a run and of an example"
    return Sheet(title, headings, tuple(rows), keys=2)


def _paper(plan: Plan) -> Iterator[Sheet]:
    """NNZ of the paper's table, norms left out, and for MobileNets its Tables 5 and 6."""
    family = plan.study.family
    table = published_table(family)
    if table is None or plan.study.large_width != max(point.width for point in table.points):
        return
    rows = []
    for point in table.points:
        counted = _counted(family, point.width, point.sparsity)
        metrics = ", ".join(f"{name} {value:g}" for name, value in point.metrics.items())
        shape = point.model, f"{point.width:g}", f"{point.sparsity:.1%}"
        rows.append((*shape, point.nnz, f"{counted.nnz / 1e6:.2f}M", f"{counted.nnz:,}", metrics))
    headings = "model", "width", "sparsity", "NNZ (paper)", "NNZ", "counted", "paper's metrics"
    yield Sheet(f"Table {table.number} of the paper: {table.data}", headings, tuple(rows))
    stored = []
    for storage in published_storage(family):
        counted = _counted(family, storage["width"], storage["sparsity"])
        ours = counted.paper_mask, counted.paper_index, counted.paper_total
        exact = f"{counted.exact_total / 1e6:.2f}"
        theirs = storage["mask"], storage["index"], storage["total"]
        pairs = (f"{a:.2f} / {b:.2f}" for a, b in zip(ours, theirs, strict=True))
        stored.append((f"{storage['width']:g}", f"{storage['sparsity']:.0%}", *pairs, exact))
    if not stored:
        return
    columns = "width", "sparsity", "bit-mask", "CSR(C)", "total", "exact counts"
    title = "Tables 5 and 6: MB, billhook's by the paper's arithmetic / the paper's"
    yield Sheet(title, columns, tuple(stored))


def _counted(family: str, width: float, sparsity: float) -> storage_table.StorageRow:
    arguments = FAMILIES[family].arguments(width)
    call = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    (row,) = storage_table.rows([f"{family}({call})"], [sparsity])
    return row
