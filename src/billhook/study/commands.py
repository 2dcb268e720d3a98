"""``billhook study plan | run | report | status``; each imports what it needs when it runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from billhook.study.family import Place
    from billhook.study.grid import Plan
    from billhook.study.store import Store

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="At equal stored bytes, is a large pruned model better than a small dense one?",
)

Data = Annotated[
    Path | None, typer.Option(help="Folder of the data set; without it the family's embedded one.")
]
Folder = Annotated[Path, typer.Argument(help="The results folder of a study.")]


@app.command("plan")
def plan_command(
    study: Annotated[str, typer.Argument(help="A study that ships (digits), or a TOML file.")],
    data: Data = None,
) -> None:
    """Every run with parameters, NNZ, bytes and cost, and the matched pairs; trains nothing.

    Without --data, a family of the paper is counted on noise if its study says how many examples
    it trains on.
    """
    from rich.console import Console

    from billhook.study.family import WIDTH_NAMES, Place
    from billhook.study.grid import plan
    from billhook.study.planned import sheets, summary
    from billhook.study.spec import load_study, study_folder

    spec = load_study(study)
    dry = data is None and spec.family in WIDTH_NAMES and spec.recipe.data.train > 0
    found = plan(spec, Place(data, study_folder(study)), dry=dry)
    console = Console()
    console.print(summary(found), highlight=False)
    for sheet in sheets(found):
        console.print(sheet.rich())


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="A study that ships (digits), or a TOML file.")],
    results: Annotated[
        Path | None, typer.Option(help="Folder for the results; runs/NAME unless given.")
    ] = None,
    data: Data = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that train at the same time, a core each.")
    ] = min(2, os.cpu_count() or 1),
) -> None:
    """Train what is missing, then report. Stopped at any time, the same command continues."""
    from rich.console import Console

    from billhook.study.family import Place
    from billhook.study.grid import plan
    from billhook.study.output import print_report, write_report
    from billhook.study.report import load_report
    from billhook.study.spec import load_study, study_folder
    from billhook.study.store import Store

    console = Console()
    place = Place(data, study_folder(study))
    grid = plan(load_study(study), place)
    store = Store(Path("runs") / grid.study.name if results is None else results)
    if store.rows() is None:
        _train(console, store, grid, workers, place)
    store.begin(grid.study)  # finished: but is it this study?
    finished = load_report(store)
    if not (store.folder / "report.md").exists():
        write_report(finished, store)
    print_report(finished, console)
    _say_where(console, store)


@app.command()
def report(folder: Folder) -> None:
    """Make tables, plot and page anew from the rows of a finished study."""
    from rich.console import Console

    from billhook.study.output import print_report, write_report
    from billhook.study.report import load_report
    from billhook.study.store import Store

    console, store = Console(), Store(folder)
    finished = load_report(store)
    write_report(finished, store)
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
    from rich.console import Console

    from billhook.study.report import load_report
    from billhook.study.side_by_side import configuration_sheet, difference_sheet
    from billhook.study.store import Store, write_text

    reports = load_report(Store(first)), load_report(Store(second))
    sheets = configuration_sheet(*reports), difference_sheet(*reports)
    for sheet in sheets:
        Console().print(sheet.rich())
    if markdown is not None:
        parts = [f"## {sheet.title}\n\n{sheet.markdown()}\n" for sheet in sheets]
        write_text(markdown, "\n".join(parts))


@app.command()
def status(folder: Folder, data: Data = None) -> None:
    """How much of a study is finished."""
    from billhook.study.family import Place
    from billhook.study.grid import plan
    from billhook.study.store import Store

    store = Store(folder)
    spec = store.study()
    trials = plan(spec, Place(data)).trials
    done = len(trials) if store.rows() is not None else sum(map(store.finished, trials))
    typer.echo(f"{spec.name}: {done} of {len(trials)} runs finished")


def _train(console: "Console", store: "Store", grid: "Plan", workers: int, place: "Place") -> None:
    from billhook.study.choice import score
    from billhook.study.progress import Display
    from billhook.study.workers import run_trials

    spec = grid.study
    store.begin(spec)
    shown = next(metric for metric in spec.metrics if not metric.test_only)
    display = Display(console, store, grid.trials, shown)
    console.print(
        f"Study {spec.name}: {len(grid.trials)} runs, {len(grid.points)} sizes of file, "
        f"{len(spec.seeds)} seeds, {workers} workers; results in {store.folder}"
    )
    try:
        with display:
            run_trials(store, grid.trials, workers, display, place)
    except KeyboardInterrupt:
        console.print(
            f"Stopped with {display.done} of {len(grid.trials)} runs finished; the same command "
            "continues."
        )
        raise typer.Exit(130) from None
    store.write_rows(score(grid, store, place))


def _say_where(console: "Console", store: "Store") -> None:
    names = "report.html, report.md, plot.png, rows.csv, comparison.csv"
    console.print(f"\n{names} in {store.folder}", highlight=False, soft_wrap=True)
