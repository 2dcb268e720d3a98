"""entropy: the mask of ``bitmask``, entropy-coded close to the floor of its density.

The floor of a mask whose elements are stored independently with probability d is
``H(d) = -d log2 d - (1 - d) log2 (1 - d)`` bits per element: 0.469 at 90% sparsity. Rows and
columns of unequal density cost less (``density.py``); the coder is rANS with interleaved lanes
(Duda 2013, arXiv 1311.2540; Giesen 2014, arXiv 1402.3392).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from billhook.errors import FormatError
from billhook.format import density, kernels
from billhook.format.coding import Encoded, Layout
from billhook.format.dtypes import Elements
from billhook.format.portable import Bytes

__all__ = ["Entropy", "mask_floor_bits"]

_ELEMENTS_A_BYTE = 2048  # an index of b bytes may describe at most this many times b elements
_BYTES_A_LANE = 1024
_MAX_LANES = 64


def mask_floor_bits(numel: int, nnz: int) -> float:
    """``numel * H(nnz / numel)``: the fewest bits, on average, for a random mask of a density.

    >>> round(mask_floor_bits(1000, 100))
    469
    """
    if nnz in (0, numel):
        return 0.0
    d = nnz / numel
    return -numel * (d * math.log2(d) + (1 - d) * math.log2(1 - d))


@dataclass(frozen=True)
class Entropy:
    """``bytes = nnz * width + index``, the index within 2% of ``mask_floor_bits / 8`` or below it
    (from 100,000 elements on; a header and a state of 10 bytes show in smaller ones)."""

    name: str = "entropy"

    def measure(self, elements: Elements, nnz: int) -> Layout:
        """Exact, by encoding the mask; ``encode`` uses what was encoded here."""
        mask = (elements != 0).reshape(density.geometry(elements.shape))
        model = density.fit(mask)
        lanes = _lanes(mask.size, nnz)
        packed = np.packbits(mask, bitorder="little")
        stream = kernels.rans_encode(packed, lanes, model.shares(elements.shape))
        index = np.concatenate([model.to_bytes(lanes), stream])
        padding = -(-mask.size // _ELEMENTS_A_BYTE) - index.size
        if padding > 0:
            index = np.append(index, np.zeros(padding, dtype=np.uint8))
        return Layout(nnz, index.size, {"nnz": nnz}, index=index)

    def expect(self, numel: int, nnz: int, width: int) -> Layout:  # noqa: ARG002
        """The floor of a random mask, the header and the lanes' states."""
        coded = mask_floor_bits(numel, nnz) / 8 + 6 + 2.5 * _lanes(numel, nnz)
        index_bytes = max(math.ceil(coded), -(-numel // _ELEMENTS_A_BYTE), 10)
        return Layout(nnz, index_bytes, {"nnz": nnz}, exact=False)

    def encode(self, elements: Elements, layout: Layout) -> Encoded:
        """The nonzero elements and the mask that ``measure`` encoded."""
        assert layout.index is not None
        _, values = kernels.bitmask_encode(elements.reshape(-1), layout.values)
        return Encoded(values, layout.index, layout.params)

    def check_entry(self, numel: int, params: Mapping[str, int], room: int, width: int) -> int:
        """``nnz``; what the values leave of the entry must be able to describe the mask."""
        if list(params) != ["nnz"]:
            raise FormatError(f"the entropy coding takes nnz alone, found {dict(params)}")
        nnz = params["nnz"]
        if nnz > numel:
            raise FormatError(f"nnz={nnz} exceeds the {numel} elements of its shape")
        if (room - nnz * width) * _ELEMENTS_A_BYTE < numel:
            raise FormatError(
                f"nnz={nnz} values of {width} bytes leave {room - nnz * width} of {room} bytes, "
                f"too few for a mask of {numel} elements"
            )
        return nnz

    def nonzeros(self, encoded: Encoded, shape: tuple[int, ...]) -> tuple[Bytes, Elements]:
        """The decoded mask, and the values themselves."""
        model, lanes, stream = density.parse(encoded.index, shape)
        mask, used = kernels.rans_decode(stream, lanes, model.shares(shape))
        _check_rest(stream[used:], encoded.index.size, math.prod(shape))
        return mask, encoded.values

    def decode(self, encoded: Encoded, shape: tuple[int, ...]) -> Elements:
        """Decode the mask, then scatter the values as ``bitmask`` does."""
        mask, values = self.nonzeros(encoded, shape)
        return kernels.bitmask_decode(mask, values, math.prod(shape)).reshape(shape)


def _lanes(numel: int, nnz: int) -> int:
    """Lanes decode independently, but each costs about two bytes: a lane for every kilobyte."""
    wanted = mask_floor_bits(numel, nnz) / 8 / _BYTES_A_LANE
    return 1 << max(0, min(_MAX_LANES, int(wanted)).bit_length() - 1)


def _check_rest(rest: Bytes, index_bytes: int, numel: int) -> None:
    """Only zeros that bring a very sparse mask to its least length may follow the stream."""
    if rest.size and (rest.any() or index_bytes != -(-numel // _ELEMENTS_A_BYTE)):
        raise FormatError(f"{rest.size} bytes follow the entropy-coded mask")
