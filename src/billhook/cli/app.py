"""The command line: the commands in one application, and how their errors end it."""

import logging
import os
from typing import Annotated

import typer

from billhook.cli import export, study, text
from billhook.cli.bench import bench_command
from billhook.cli.convert import convert_command
from billhook.cli.estimate import estimate_command
from billhook.cli.footprint import footprint_command
from billhook.cli.inspect import inspect_command
from billhook.cli.plan import plan_command
from billhook.cli.prune import prune_command
from billhook.cli.sensitivity import sensitivity_command
from billhook.cli.train import train_command
from billhook.cli.version import version_text
from billhook.errors import BillhookError

__all__ = ["main"]

#: What the commands import beyond billhook's own dependencies, and the extra that brings it.
_EXTRAS = dict.fromkeys(("altair", "vl_convert", "jinja2", "sklearn", "scipy", "pydantic"), "study")
_EXTRAS |= dict.fromkeys(("PIL", "kornia", "tokenizers", "sacrebleu", "babel"), "data")
_EXTRAS |= dict.fromkeys(("accelerate", "tensorboard"), "train")
_EXTRAS |= dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "onnx") | {"ray": "ray"}

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("inspect")(inspect_command)
app.command("convert")(convert_command)
app.command("prune")(prune_command)
app.command("sensitivity")(sensitivity_command)
app.command("footprint")(footprint_command)
app.command("estimate")(estimate_command)
app.command("bench")(bench_command)
app.command("plan")(plan_command)
app.command("train")(train_command)
app.add_typer(export.app, name="export")
app.add_typer(study.app, name="study")
app.add_typer(text.app, name="text")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_text())
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Prune PyTorch models while they train, store them small, run them fast on CPUs."""


def main() -> None:
    """Run the command line; an error of billhook's own ends it with one clear line."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("billhook").setLevel(logging.INFO)  # what the pruner selects
    try:
        app()
    except (BillhookError, OSError) as error:
        from billhook.render import printable

        text = _without_number(error) if isinstance(error, OSError) else str(error)
        typer.echo(f"error: {printable(text)}", err=True)
        raise SystemExit(1) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        typer.echo(
            f"error: this command needs {package}, which is not installed: {_remedy(package)}",
            err=True,
        )
        raise SystemExit(1) from error


def _without_number(error: OSError) -> str:
    """Which file and what about it; of a file to be written, the folder that is missing."""
    if error.filename is None or error.strerror is None:
        return str(error)
    folder = os.path.dirname(os.path.abspath(os.fsdecode(error.filename)))
    if isinstance(error, FileNotFoundError) and not os.path.isdir(folder):
        return f"{error.filename}: there is no folder {folder}"
    return f"{error.filename}: {error.strerror}"


def _remedy(package: str) -> str:
    """What installs a package that an extra of billhook's brings: from an index or a checkout."""
    return (
        f"pip install 'billhook[{_EXTRAS[package]}]', or in a checkout "
        f"pip install '.[{_EXTRAS[package]}]'"
    )
