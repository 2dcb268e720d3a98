"""``billhook study plan | run | latency | report | ...``; each imports what it needs."""

import contextlib
import functools
import importlib.resources
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from billhook.cli.options import Data, Device, Json, find_modules_here, print_json
from billhook.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from billhook.study.grid import Plan
    from billhook.study.records.store import Store
    from billhook.study.run.workers import Pool
    from billhook.study.spec import Study
    from billhook.study.subject import Place

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="At equal stored bytes, is a large pruned model better than a small dense one?",
)


def _shipped() -> list[str]:
    """The studies that come with billhook, for the shell's completion."""
    folder = importlib.resources.files("billhook") / "studies"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


Name = Annotated[
    str,
    typer.Argument(
        help="A study that ships (see billhook study list), or a TOML file.",
        autocompletion=_shipped,
    ),
]
Folder = Annotated[Path, typer.Argument(help="The results folder of a study.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that train at the same time, a core each; two unless given.",
        show_default=False,
    ),
]


@app.command("plan")
def plan_command(
    study: Name,
    data: Data = None,
) -> None:
    """Every run with parameters, NNZ, bytes and cost, and the matched pairs.

    Every network takes a step, so that what fails, fails here, and the hours can be estimated.

    Without --data, a family of the paper is counted on noise if its study says how many examples
    it trains on.
    """
    from billhook.render import terminal
    from billhook.study.grid import plan
    from billhook.study.report.planned import sheets, summary
    from billhook.study.run.rehearsal import estimated_hours, rehearse
    from billhook.tasks.families import FAMILIES

    spec, place = _load(study, data)
    dry = data is None and spec.family in FAMILIES and spec.recipe.data.train > 0
    found = plan(spec, place, dry=dry)
    console = terminal()
    hours = None if dry else estimated_hours(found, rehearse(found, place))
    console.print(summary(found, hours), highlight=False)
    for sheet in sheets(found):
        console.print(sheet)


@app.command("list")
def list_command() -> None:
    """The studies that come with billhook, and what each asks."""
    from billhook.render import Table, terminal
    from billhook.study.spec import load_study, question

    studies = {name: load_study(name) for name in _shipped()}
    rows = [
        (name, study.family, f"{study.runs}", question(name)) for name, study in studies.items()
    ]
    terminal().print(Table("Studies", ("name", "family", "runs", "what it asks"), rows))


@app.command()
def run(
    study: Name,
    *,
    results: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/NAME unless given.")
    ] = None,
    data: Data = None,
    workers: Workers = None,
    device: Device = "auto",
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
    """Train what is missing, then report. Stopped at any time, the same command continues.

    The exit code is 1 if runs failed, and 130 after Ctrl-C.
    """
    from billhook.render import terminal
    from billhook.study.grid import plan
    from billhook.study.records.store import Store
    from billhook.study.run.choice import groups
    from billhook.training.precision import check_device

    if ray not in (None, "local") and workers is not None:
        raise ConfigurationError(
            f"--workers {workers} is for processes of this machine, the CPUs of {ray} are "
            "the cluster's own: leave --workers out"
        )
    console = terminal()
    on = check_device(device) if ray in (None, "local") else device
    spec, place = _load(study, data)
    place = replace(place, device=device)
    grid = plan(spec, place)
    store = Store(Path("runs") / grid.study.name if results is None else results)
    begin = functools.partial(store.begin, grid.study, _command(study, results))
    if (store.folder / "study.json").exists():  # another study's: said before any worker starts
        begin()
        store.check_runs([trial.identity for trial in grid.trials])
    trains = retry_failed or not all(group.recorded(store) for group in groups(grid, store))
    if trains:
        pool = _pool(store, ray, workers or min(2, os.cpu_count() or 1), place)
        with contextlib.closing(pool):
            begin()
            if retry_failed:
                console.print(f"{store.retry(grid.trials)} failed runs to be run again")
            _train(console, store, grid, pool, on=on)
    _report(console, store, grid, place, stale=trains)


def _report(
    console: "Console", store: "Store", grid: "Plan", place: "Place", *, stale: bool
) -> None:
    """Measure what the finished runs lack; print the report, written anew where it is ``stale``."""
    from billhook.study.records.reading import LATENCY
    from billhook.study.report.output import print_report, write_report
    from billhook.study.report.report import load_report
    from billhook.study.run.latency import measure_latency
    from billhook.study.run.rounded import measure_values

    reports = [store.folder / name for name in ("report.md", LATENCY)]
    stale = stale or not all(path.exists() for path in reports)
    unmeasured = measure_latency(store, grid, place)
    if unmeasured:
        console.print(f"latency left out: {unmeasured}", highlight=False)
    if measure_values(store, grid, place):
        stale = True
    finished = load_report(store)
    if stale:
        write_report(finished, store)
    print_report(finished, console)
    failed = _say_failures(console, store)
    _say_where(console, store)
    if failed:
        raise typer.Exit(1)


@app.command()
def latency(
    study: Name,
    *,
    results: Annotated[
        Path | None, typer.Option(help="The study's results folder; runs/NAME unless given.")
    ] = None,
    data: Data = None,
) -> None:
    """Time the chosen networks so far, by billhook in fp32 and 8 bits and by others.

    Dense networks are also run by ONNX Runtime and OpenVINO, where those are installed. Programs
    in 8 bits are measured on test data. Stopped at any time, the same command continues with the
    seeds that are not in latency.csv; then it reports.
    """
    from billhook.render import terminal
    from billhook.study.grid import plan
    from billhook.study.records.store import Store
    from billhook.study.report.output import print_report, write_report
    from billhook.study.report.report import load_report
    from billhook.study.run.latency import measure_latency

    console = terminal()
    spec, place = _load(study, data)
    grid = plan(spec, place)
    store = Store(Path("runs") / grid.study.name if results is None else results)
    store.check_runs([trial.identity for trial in grid.trials])

    def watch(seed: int, networks: int) -> None:
        console.print(f"seed {seed}: {networks} networks", highlight=False)

    if reason := measure_latency(store, grid, place, every=True, watch=watch):
        raise ConfigurationError(f"nothing was timed: {reason}")
    finished = load_report(store)
    write_report(finished, store)
    print_report(finished, console)
    _say_where(console, store)


@app.command()
def report(folder: Folder, json: Json = False) -> None:
    """Make tables, plot and page anew from the rows that a study has so far."""
    from billhook.cli.bodies.study import report_data
    from billhook.render import terminal
    from billhook.study.records.store import Store
    from billhook.study.report.output import print_report, write_report
    from billhook.study.report.report import load_report

    console, store = terminal(), Store(folder)
    finished = load_report(store)
    write_report(finished, store)
    if json:
        print_json(report_data(finished, store))
        return
    print_report(finished, console)
    _say_where(console, store)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="The results folder of a finished study.")],
    second: Annotated[Path, typer.Argument(help="The results folder of another one.")],
    markdown: Annotated[
        Path | None, typer.Option(help="Also write the tables to this Markdown file.")
    ] = None,
) -> None:
    """Two finished studies beside each other: what differs in them and in their results."""
    from billhook.atomic import write_text
    from billhook.render import terminal
    from billhook.study.records.store import Store
    from billhook.study.report.report import load_report
    from billhook.study.report.side_by_side import configuration_sheet, difference_sheet

    reports = load_report(Store(first)), load_report(Store(second))
    sheets = configuration_sheet(*reports), difference_sheet(*reports)
    for sheet in sheets:
        terminal().print(sheet)
    if markdown is not None:
        parts = [f"## {sheet.title}\n\n{sheet.markdown()}\n" for sheet in sheets]
        write_text(markdown, "\n".join(parts))


@app.command()
def status(folder: Folder, json: Json = False) -> None:
    """How much of a study is finished, what runs now, what failed and why."""
    from billhook.cli.bodies.study import status_data
    from billhook.render import terminal
    from billhook.study.records.store import Store
    from billhook.study.run.progress import print_status

    if json:
        print_json(status_data(Store(folder)))
    else:
        print_status(terminal(), Store(folder))


def _load(study: str, data: Path | None) -> "tuple[Study, Place]":
    """The study, and where its data and the user's own module are."""
    from billhook.study.spec import load_study, study_folder
    from billhook.study.subject import Place
    from billhook.tasks.families import FAMILIES

    find_modules_here()
    spec = load_study(study)
    if data is not None and spec.family not in FAMILIES and not spec.task:
        raise ConfigurationError(
            f"--data {data} is not used: {spec.family} brings its own data; leave --data out"
        )
    return spec, Place(data, study_folder(study))


def _train(console: "Console", store: "Store", grid: "Plan", pool: "Pool", *, on: str) -> None:
    from billhook.study.run.progress import Display
    from billhook.study.run.workers import run_trials

    console.print(
        f"Study {grid.study.name}: {grid.study.runs} runs, {len(grid.points)} sizes of file, "
        f"{len(grid.study.seeds)} seeds, on {on}; results in {store.folder}"
    )
    try:
        with Display(console, store, grid) as display:
            run_trials(store, grid, pool, display)
    except KeyboardInterrupt:
        console.print("Stopped; finished runs are kept, and the same command continues.")
        raise typer.Exit(130) from None


def _pool(store: "Store", ray: str | None, workers: int, place: "Place") -> "Pool":
    from billhook.study.run.workers import LocalPool

    if ray is None:
        return LocalPool(store, workers, place)
    from billhook.study.run.ray_pool import RayPool

    return RayPool(store, ray, workers, place)


def _command(study: str, results: Path | None) -> str:
    """What a reader types to run the study; of absolute paths the last part, as it is public."""

    def public(path: Path) -> str:
        return shlex.quote(path.name if path.is_absolute() else str(path))

    folder = "" if results is None else f" --results {public(results)}"
    return f"billhook study run {public(Path(study))}{folder}"


def _say_failures(console: "Console", store: "Store") -> bool:
    """Name the runs that failed; whether there are any."""
    from billhook.study.run.progress import retry_hint

    failed = [row for row in store.records.rows() if row.failure]
    for row in failed:
        console.print(f"failed: {row.run}: {row.failure}", highlight=False, markup=False)
    if failed:
        console.print(retry_hint(store), highlight=False, markup=False)
    return bool(failed)


def _say_where(console: "Console", store: "Store") -> None:
    names = "report.html, report.md, plot.png, rows.csv, comparison.csv"
    console.print(f"\n{names} in {store.folder}", highlight=False, soft_wrap=True)
