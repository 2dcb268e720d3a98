"""``billhook export onnx``."""

from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.options import Vocabulary, find_modules_here

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Write a model in another format.")


@app.callback()
def _several() -> None:
    """Write a model in another format."""


@app.command("onnx")
def onnx_command(
    model: Annotated[
        str,
        typer.Argument(
            help="A function of billhook.models or module:function, arguments in parentheses, as "
            "in 'mobilenet_v1(width=0.5)'."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    *,
    weights: Annotated[
        Path, typer.Option(help="A billhook or safetensors file with the model's weights.")
    ],
    shape: Annotated[str, typer.Option("--input", help="The input's sides, as in 1,3,224,224.")],
    vocabulary: Vocabulary = None,
) -> None:
    """Write a pruned model as ONNX, compared with the model in ONNX Runtime.

    Its zeros are stored like other numbers, so that every runtime opens the file.
    """
    import billhook
    from billhook.cli.bodies.bench import check_input, example_input, fill
    from billhook.named_model import build_model
    from billhook.onnx import export_onnx

    find_modules_here()
    made = build_model(model, device="cpu").eval()
    fill(made, billhook.load(weights), f"{weights} does not fit {model}")
    x = example_input(shape, vocabulary)
    check_input(model, made, x)
    export_onnx(made, x, target)
    zeros = sum(int((p == 0).sum()) for p in made.parameters() if p.dim() > 1)
    total = sum(p.numel() for p in made.parameters() if p.dim() > 1)
    typer.echo(
        f"{target}: {target.stat().st_size:,} bytes, {zeros / max(total, 1):.1%} of the weights "
        "are zeros; ONNX Runtime computes the same"
    )
