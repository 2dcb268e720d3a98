"""Checkpoints, read back complete and equal to the bit."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from billhook.errors import StateError

__all__ = ["read_checkpoint"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What :func:`torch.save` wrote to ``path``, on the CPU.

    torch writes a checksum (CRC-32) for every record of the file and compares none of them when it
    reads: here all are compared first. Nothing but tensors and plain values is read
    (``weights_only``).

    Raises:
        StateError: the file is cut short or changed, or not a checkpoint of this library.
    """
    try:
        with zipfile.ZipFile(path) as records:
            changed = records.testzip()
        if changed is not None:
            raise ValueError(f"the checksum of its record {changed!r} does not match")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not state.keys() >= _KEYS:
            raise ValueError("it has other contents")
    except Exception as error:  # whatever zipfile, torch and pickle make of damaged bytes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise StateError(
            f"{path} is damaged, or not a checkpoint that training wrote ({reason}): restore it, "
            "or delete it, and the run begins anew"
        ) from None
    return state


_KEYS = {"recipe", "step", "model", "optimizer", "pruner", "average", "task", "rng"}
