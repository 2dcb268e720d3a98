"""The command line: ``billhook inspect FILE`` and the others; each imports what it needs."""

import sys
from pathlib import Path
from typing import Annotated

import typer

import billhook
from billhook.study import commands
from billhook.train_command import train_command

__all__ = ["main"]

#: What the commands import beyond billhook's own dependencies, and the extra that brings it.
_EXTRAS = dict.fromkeys(("altair", "vl_convert", "jinja2", "sklearn", "scipy"), "study")
_EXTRAS |= dict.fromkeys(("PIL", "kornia", "tokenizers", "sacrebleu", "babel"), "data")
_EXTRAS |= dict.fromkeys(("accelerate", "tensorboard"), "train")
_EXTRAS |= {"ray": "ray"}

app = typer.Typer(no_args_is_help=True, add_completion=False, help=billhook.__doc__)
app.add_typer(commands.app, name="study")


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


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="A billhook or safetensors file.")]) -> None:
    """Show what a file holds: tensor, shape, sparsity, nonzeros, coding, bytes."""
    from billhook.render import terminal

    terminal().print(billhook.inspect(file))


@app.command()
def footprint(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Functions of billhook.models or module:function, arguments as in "
            "'mobilenet_v1(width=0.5)'."
        ),
    ],
    sparsity: Annotated[
        list[float] | None, typer.Option(help="A sparsity; give it again for others.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Bytes of a pruned model: the paper's Tables 5 and 6, exact counts, and real files."""
    from billhook import footprint_command

    found = list(footprint_command.rows(models, sparsity or footprint_command.PAPER_SPARSITIES))
    if json:
        from json import dumps

        typer.echo(dumps(footprint_command.as_json(found), indent=2))
    else:
        from billhook.render import terminal

        terminal().print(footprint_command.as_table(found))


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="A billhook, safetensors or torch.save file; torch.nn.utils.prune, "
            "torch.ao.pruning and compressed-tensors' sparse-bitmask are understood."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The file to write.")],
    *,
    encoding: Annotated[
        str, typer.Option(help="auto, dense (plain safetensors), or the name of a coding.")
    ] = "auto",
    values: Annotated[
        str | None, typer.Option(help="Store weights as F32, F16, BF16 or I8.")
    ] = None,
    keep_survivors: Annotated[
        bool, typer.Option(help="Keep weights that would round to zero at one quantum.")
    ] = False,
    canonical_zeros: Annotated[bool, typer.Option(help="Write -0.0 as 0.0.")] = False,
    masks: Annotated[
        Path | None, typer.Option(help="A file of torch.ao.pruning's masks by tensor name.")
    ] = None,
) -> None:
    """Rewrite a checkpoint: other tools' masks applied, every tensor coded anew."""
    from billhook.format.interchange import read
    from billhook.render import terminal

    report = billhook.save(
        read(source, masks),
        target,
        encoding=encoding,
        values=values,
        keep_survivors=keep_survivors,
        canonical_zeros=canonical_zeros,
    )
    terminal().print(report)


app.command("train")(train_command)


@app.command()
def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A family with a recipe, as in 'mobilenet_v1(width=0.5)'; with --learning-rate "
            "any module:function, for its layers."
        ),
    ] = None,
    *,
    sparsity: Annotated[float, typer.Option(help="The final sparsity.")] = 0.9,
    begin: Annotated[int | None, typer.Option(help="First pruning step.")] = None,
    end: Annotated[int | None, typer.Option(help="Last pruning step.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="paper, laptop (unless given), or a .toml file.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The recipe's data; without it an embedded set.")
    ] = None,
    steps_per_epoch: Annotated[
        int | None, typer.Option(help="In place of data: a recipe's steps in an epoch.")
    ] = None,
    learning_rate: Annotated[
        str | None,
        typer.Option(help="Your own run's: a number, or module:function of the steps taken."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Your own run's optimizer steps.")] = None,
    frequency: Annotated[
        int | None, typer.Option(help="Your own run's steps between updates; 100 unless given.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw both curves: .png, .svg or .html.")
    ] = None,
) -> None:
    """Pruning against the learning rate before anything is trained (the paper's Fig. 2a).

    billhook plan 'ptb_lstm(size="small")' --recipe paper --data DIR

    billhook plan --learning-rate mine:rate --steps 20000 --begin 2000 --end 14000
    """
    from billhook import plan_command
    from billhook.render import terminal

    of_recipe = {"recipe": recipe, "data": data, "steps_per_epoch": steps_per_epoch}
    of_own = {"steps": steps, "frequency": frequency}
    if learning_rate is None:
        plan_command.refuse(of_own, "belongs to a run of your own: give --learning-rate too")
        found = plan_command.of_recipe(
            model,
            recipe or "laptop",
            sparsity,
            begin=begin,
            end=end,
            data=data,
            steps_per_epoch=steps_per_epoch,
        )
    else:
        plan_command.refuse(of_recipe, "belongs to a recipe's run: leave out --learning-rate")
        found = plan_command.of_own_run(
            model,
            learning_rate,
            steps,
            sparsity,
            begin=begin,
            end=end,
            frequency=100 if frequency is None else frequency,
        )
    terminal().print(found)
    if plot is not None:
        found.plot(plot)


@app.command()
def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="A function of billhook.models or module:function, arguments in parentheses, as "
            "in 'mobilenet_v1(width=0.5)'; or a file of a model compiled to one program."
        ),
    ],
    shape: Annotated[
        str | None,
        typer.Option("--input", help="Its sides, as in 1,3,224,224; a program knows its own."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="A billhook or safetensors file with the model's weights.")
    ] = None,
    sparsity: Annotated[
        float | None, typer.Option(help="Without a file: this share of zeros, at random.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="The input holds integers below this.")
    ] = None,
    *,
    threads: Annotated[int, typer.Option(help="For every form of the model.")] = 1,
) -> None:
    """Time a sparse model compiled, beside torch and others, and every layer of it."""
    from billhook import bench_command
    from billhook.inference.bench import with_steady_memory

    with_steady_memory()
    for lines in bench_command.run(
        model,
        shape,
        weights=weights,
        sparsity=sparsity,
        vocabulary=vocabulary,
        threads=threads,
    ):
        typer.echo(lines)


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
