"""Outcomes and rows of trials that never ran."""

import dataclasses

from billhook.study.grid import SPARSE
from billhook.study.records.outcome import Outcome
from billhook.study.records.rows import RunRow


def outcome(validation: dict[str, float], size: int = 123) -> Outcome:
    return Outcome(
        parameters=50,
        nonzero=45,
        bytes=size,
        bytes_dense=size + 1,
        bytes_bitmask=size + 2,
        bytes_relative_index=size + 3,
        bytes_entropy=size + 4,
        training_operations=900,
        inference_operations=90,
        seconds=1.5,
        validation=validation,
    )


def row(
    arm: str, point: int, seed: int, test: dict[str, float], *, sparsity: float = 0.0
) -> RunRow:
    """A chosen run, its bytes and nonzeros those of ``point``."""
    return RunRow(
        run=f"{arm}-{point}-{seed}",
        arm=arm,
        scheme="standard" if arm == SPARSE else "",
        variant="",
        point=point,
        width=1.0,
        sparsity=sparsity,
        seed=seed,
        learning_rate=0.1,
        dropout=None,
        steps=10,
        chosen=True,
        failure="",
        test=test,
        **dataclasses.asdict(outcome(test, point)) | {"nonzero": point},
    )
