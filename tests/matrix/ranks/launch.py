"""What must hold on every rank. Each function runs on all ranks of one process group at once."""

import json
import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from . import checkpoints, ddp, fsdp, parts, selection

#: Every public function of these modules, which one launch runs.
CHECKS: dict[str, Callable[[], None]] = {
    name: check
    for module in (selection, ddp, fsdp, parts, checkpoints)
    for name, check in vars(module).items()
    if getattr(check, "__module__", "") == module.__name__ and name[0].islower()
}


def run_all(rank: int, size: int, folder: str) -> None:
    """The body of each process: every check, and what went wrong with it in a file."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    outcomes = {}
    for name, check in CHECKS.items():
        began = time.perf_counter()
        try:
            check()
            outcomes[name] = ""
        except Exception:
            outcomes[name] = f"on rank {rank}: {traceback.format_exc()}"
        outcomes[f"seconds of {name}"] = f"{time.perf_counter() - began:.1f}"
    Path(folder, f"{rank}.json").write_text(json.dumps(outcomes))
    distributed.destroy_process_group()
