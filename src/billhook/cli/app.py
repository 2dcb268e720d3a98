"""The command line: the commands in one application, and how their errors end it."""

import sys
from typing import Annotated

import typer

import billhook
from billhook.cli import study
from billhook.cli.bench import bench_command
from billhook.cli.convert import convert_command
from billhook.cli.footprint import footprint_command
from billhook.cli.inspect import inspect_command
from billhook.cli.plan import plan_command
from billhook.cli.train import train_command

__all__ = ["main"]

#: What the commands import beyond billhook's own dependencies, and the extra that brings it.
_EXTRAS = dict.fromkeys(("altair", "vl_convert", "jinja2", "sklearn", "scipy"), "study")
_EXTRAS |= dict.fromkeys(("PIL", "kornia", "tokenizers", "sacrebleu", "babel"), "data")
_EXTRAS |= dict.fromkeys(("accelerate", "tensorboard"), "train")
_EXTRAS |= {"ray": "ray"}

app = typer.Typer(no_args_is_help=True, add_completion=False, help=billhook.__doc__)
app.command("inspect")(inspect_command)
app.command("footprint")(footprint_command)
app.command("convert")(convert_command)
app.command("train")(train_command)
app.command("plan")(plan_command)
app.command("bench")(bench_command)
app.add_typer(study.app, name="study")


def _print_version(wanted: bool) -> None:
    if wanted:
        from billhook import native

        kernels = "in use" if native.library() is not None else "absent (portable path in use)"
        typer.echo(f"billhook {billhook.__version__}, native kernels {kernels}")
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
    sys.path.insert(0, "")  # module:function is looked for where the command runs, as by python -m
    try:
        app()
    except (billhook.BillhookError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        extra = _EXTRAS[package]
        typer.echo(
            f"error: this command needs {package}, which is not installed: "
            f"pip install 'billhook[{extra}]'",
            err=True,
        )
        raise SystemExit(1) from error
