"""``billhook study run | report | status``; what is heavy is imported when a command runs."""

import contextlib
import functools
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from billhook.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from billhook.study.spec import Study
    from billhook.study.store import Store
    from billhook.study.workers import Pool

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="At equal stored bytes, is a large pruned model better than a small dense one?",
)

Folder = Annotated[Path, typer.Argument(help="The results folder of a study.")]


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study that ships (digits), or a TOML file.")],
    results: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/NAME unless given.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that train at the same time, a core each; two unless given.",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS|local",
            help="Train on this Ray cluster (HOST:PORT, ray://HOST:PORT, auto), which sees the "
            "results folder under the same path; local starts one here.",
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also run again what failed before.")
    ] = False,
) -> None:
    """Train what is missing, then report. Stopped at any time, the same command continues."""
    from rich.console import Console

    from billhook.study.report import load_report, write_report
    from billhook.study.spec import load_study
    from billhook.study.store import Store

    if ray not in (None, "local") and workers is not None:
        raise ConfigurationError(
            f"--workers {workers} is for processes of this machine, the CPUs of {ray} are "
            "the cluster's own: leave --workers out"
        )
    console = Console()
    spec = load_study(study)
    store = Store(Path("runs") / spec.name if results is None else results)
    if store.rows() is None or retry_failed:
        pool = functools.partial(_pool, store, ray, workers or min(2, os.cpu_count() or 1))
        _train(console, store, spec, _command(study, results), pool, retry_failed)
        write_report(load_report(store), store)
    store.begin(spec)  # finished: but is it this study?
    finished = load_report(store)
    if not (store.folder / "report.md").exists():
        write_report(finished, store)
    finished.print(console)
    _say_failures(console, store)
    _say_where(console, store)


@app.command()
def report(folder: Folder) -> None:
    """Make tables, plot and page anew from the rows of a finished study."""
    from rich.console import Console

    from billhook.study.report import load_report, write_report
    from billhook.study.store import Store

    console, store = Console(), Store(folder)
    finished = load_report(store)
    write_report(finished, store)
    finished.print(console)
    _say_where(console, store)


@app.command()
def status(folder: Folder) -> None:
    """How much of a study is finished, what runs now, what failed and why."""
    from rich.console import Console

    from billhook.study.family import family
    from billhook.study.grid import plan
    from billhook.study.progress import print_status
    from billhook.study.store import Store

    store = Store(folder)
    spec = store.study()
    print_status(Console(), store, plan(spec).trials, family(spec.family).metrics[0])


def _train(
    console: "Console",
    store: "Store",
    spec: "Study",
    command: str,
    make_pool: "Callable[[], Pool]",
    retry_failed: bool,
) -> None:
    from billhook.study.choice import score
    from billhook.study.family import family
    from billhook.study.grid import plan
    from billhook.study.progress import Display
    from billhook.study.workers import run_trials

    grid = plan(spec)
    if (store.folder / "study.json").exists():
        store.begin(spec, command)  # another study's: said before any worker starts
    try:
        with contextlib.closing(make_pool()) as pool:
            store.begin(spec, command)
            if retry_failed:
                console.print(f"{store.retry(grid.trials)} failed runs to be run again")
            console.print(
                f"Study {spec.name}: {len(grid.trials)} runs, {len(grid.points)} sizes of file, "
                f"{len(spec.seeds)} seeds; results in {store.folder}"
            )
            metric = family(spec.family).metrics[0]
            with Display(console, store, grid.trials, metric) as display:
                run_trials(store, grid.trials, pool, display)
    except KeyboardInterrupt:
        console.print("Stopped; finished runs are kept, and the same command continues.")
        raise typer.Exit(130) from None
    store.write_rows(score(grid, store))


def _pool(store: "Store", ray: str | None, workers: int) -> "Pool":
    from billhook.study.workers import LocalPool

    if ray is None:
        return LocalPool(store, workers)
    from billhook.study.ray_pool import RayPool

    return RayPool(store, ray, workers)


def _command(study: str, results: Path | None) -> str:
    """What a reader types to run the study; of absolute paths the last part, as it is public."""

    def public(path: Path) -> str:
        return shlex.quote(path.name if path.is_absolute() else str(path))

    folder = "" if results is None else f" --results {public(results)}"
    return f"billhook study run {public(Path(study))}{folder}"


def _say_failures(console: "Console", store: "Store") -> None:
    from billhook.study.progress import retry_hint

    failed = [row for row in store.rows() or [] if row.failure]
    for row in failed:
        console.print(f"failed: {row.run}: {row.failure}", highlight=False, markup=False)
    if failed:
        console.print(retry_hint(store), highlight=False, markup=False)


def _say_where(console: "Console", store: "Store") -> None:
    names = "report.md, plot.png, rows.csv, comparison.csv"
    console.print(f"\n{names} in {store.folder}", highlight=False, soft_wrap=True)
