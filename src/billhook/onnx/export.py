"""``export_onnx``: a pruned model as an ONNX file that runs anywhere."""

import importlib
import logging
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from billhook.errors import ConfigurationError, ExportError
from billhook.inference.inputs import positional
from billhook.torch_private import leaves, map_leaves

__all__ = ["TOLERANCE", "export_onnx"]

TOLERANCE = 1e-4  # relative, in the 2-norm


def export_onnx(model: nn.Module, example_inputs: Any, path: str | os.PathLike[str]) -> None:
    """Writes a model as ONNX with dense weights, and compares it with the model in ONNX Runtime.

    The zeros are stored like other numbers: the file is as large as a dense one, and every runtime
    opens it. ``billhook.compile`` makes a program of it that skips them. The batch size, the first
    dimension of every input, may vary if torch.onnx can export the model so.

    Args:
        model: In evaluation mode, on the CPU.
        example_inputs: As for ``billhook.compile``: an input, a tuple of them, or a dict by name.
        path: The file to write. It is put in place when the comparison is over.

    Raises:
        ConfigurationError: A package is missing (``pip install 'billhook[onnx]'``), or the model is
            in training mode.
        ExportError: torch.onnx cannot export the model, or ONNX Runtime computes something else.

    >>> path = tempfile.mkdtemp() + "/model.onnx"
    >>> export_onnx(nn.Linear(3, 2).eval(), torch.ones(1, 3), path)
    >>> Path(path).stat().st_size > 0
    True
    """
    training = next((name for name, m in model.named_modules() if m.training), None)
    if training is not None:
        raise ConfigurationError(
            f"{training or 'the model'} is in training mode: call model.eval() before the export"
        )
    runtime = _package("onnxruntime")
    for name in ("onnx", "onnxscript"):
        _package(name)
    inputs = positional(model, example_inputs)
    with tempfile.TemporaryDirectory(dir=Path(path).resolve().parent) as folder:
        written = Path(folder) / "model.onnx"
        _export(model, inputs, written)
        _compare(runtime, model, inputs, written)
        os.replace(written, path)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"ONNX export needs the package {name}: pip install 'billhook[onnx]'"
        ) from error


def _export(model: nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    """With a batch size that may vary, or with the example's."""
    batch = torch.export.Dim.DYNAMIC
    varies = map_leaves(lambda x: {0: batch} if torch.is_tensor(x) and x.dim() else None, inputs)
    failed: Exception | None = None
    for shapes in (varies, None):
        try:
            with warnings.catch_warnings(), _Quiet():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    model,
                    inputs,
                    os.fspath(path),
                    dynamo=True,
                    dynamic_shapes=shapes,
                    external_data=False,
                    verbose=False,
                )
            return
        except Exception as error:  # torch.onnx raises many kinds
            failed = failed or error
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(failed)).strip() or type(failed).__name__
    raise ExportError(f"torch.onnx cannot export the model: {text.splitlines()[0]}") from failed


class _Quiet:
    """No log lines of the exporter."""

    def __enter__(self) -> None:
        self.before = logging.root.manager.disable
        logging.disable(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.before)


def _compare(runtime: Any, model: nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    session = runtime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    tensors = [x for x in leaves(inputs) if torch.is_tensor(x)]
    names = [given.name for given in session.get_inputs()]
    given = session.run(None, {n: x.numpy() for n, x in zip(names, tensors, strict=True)})
    with torch.no_grad():
        outputs = leaves(model(*inputs))
    wanted = [y for y in outputs if torch.is_tensor(y)]
    for place, (ours, theirs) in enumerate(zip(wanted, given, strict=True)):
        difference = float((torch.from_numpy(theirs) - ours).double().norm())
        if not difference <= TOLERANCE * float(ours.double().norm()):
            raise ExportError(
                f"output {place} differs in ONNX Runtime by {difference:.3g} (2-norm): the file "
                "was not written"
            )
