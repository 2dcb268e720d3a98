"""Energy of one inference, estimated from counted operations and bytes: a model, no measurement."""

import dataclasses

from billhook.study.records.rows import RunRow

__all__ = ["SOURCE", "Energy", "energy"]

#: Picojoules at 45 nm and 0.9 V, fp32 and a 32-bit word of DRAM (1.3 to 2.6 nJ for 64 bits).
MULTIPLY, ADD, DRAM_WORD = 3.7, 0.9, 640.0

SOURCE = (
    "M. Horowitz, Computing's energy problem, ISSCC 2014: 45 nm, fp32 multiplication 3.7 pJ, "
    "addition 0.9 pJ; a 32-bit word from DRAM 640 pJ, as Han et al. 2015 take it"
)


@dataclasses.dataclass(frozen=True)
class Energy:
    """Nanojoules of one inference: ``arithmetic`` and the ``memory`` that weights are read from."""

    arithmetic: float
    memory: float


def energy(row: RunRow) -> Energy:
    """``operations * (multiply + add)`` and ``bytes / 4 * DRAM word``.

    A multiply-add for each nonzero weight and place it is used at; every byte of the file is read
    from DRAM once, activations from caches at no cost, decoding is free.
    """
    return Energy(
        arithmetic=row.inference_operations * (MULTIPLY + ADD) / 1_000,
        memory=row.bytes / 4 * DRAM_WORD / 1_000,
    )
