"""The report of ``save``: the bytes that were written, beside dense and gzip."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from billhook.format.summary import TensorSummary, table

__all__ = ["SaveReport", "gzip_size"]


@dataclass(frozen=True)
class SaveReport:
    """What ``save`` wrote; every number is counted, in bytes unless it says otherwise.

    ``stored_bytes`` is the size of the file on disk, ``dense_bytes`` that of the file
    ``encoding="dense"`` would have been, ``gzip_bytes`` that of the dense file after gzip -6 (None
    when it was not compressed). ``lost`` counts survivors that rounded to zero.
    ``negative_zeros`` counts -0.0 among the stored values, ``negative_zero_bytes`` what
    ``canonical_zeros=True`` would have saved.
    """

    path: Path
    tensors: tuple[TensorSummary, ...]
    stored_bytes: int
    dense_bytes: int
    gzip_bytes: int | None
    lost: int
    negative_zeros: int
    negative_zero_bytes: int

    @property
    def ratio(self) -> float:
        """``dense_bytes / stored_bytes``."""
        return self.dense_bytes / self.stored_bytes

    @property
    def floor_bytes(self) -> int:
        """The sum of the tensors' ``floor_bytes``: values and mask entropy, no header."""
        return sum(each.floor_bytes for each in self.tensors)

    def __str__(self) -> str:
        """The totals and the per-tensor table, as plain text."""
        from billhook.render import as_text

        return as_text(self.__rich__())

    def __rich__(self) -> Any:
        """The same for rich."""
        return table(self.tensors, "\n".join(self._lines()))

    def _lines(self) -> list[str]:
        gzip = (
            "not measured (gzip=True)" if self.gzip_bytes is None else f"{self.gzip_bytes:,} bytes"
        )
        lines = [
            f"{self.path.name}: {self.stored_bytes:,} bytes, {self.ratio:.2f}x smaller than dense",
            f"dense {self.dense_bytes:,} bytes, gzip of dense {gzip}, "
            f"entropy floor {self.floor_bytes:,} bytes",
        ]
        if self.lost:
            lines.append(
                f"{self.lost:,} weights that were not zero rounded to zero; keep_survivors=True "
                "keeps them at one quantum"
            )
        if self.negative_zeros:
            lines.append(
                f"{self.negative_zeros:,} values are -0.0; canonical_zeros=True would save "
                f"{self.negative_zero_bytes:,} bytes"
            )
        return lines


def gzip_size(chunks: Iterable[Any]) -> int:
    """Bytes of the chunks after ``gzip -6``.

    >>> gzip_size([b"a" * 1000])
    29
    """
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    size = sum(len(compressor.compress(chunk)) for chunk in chunks)
    return size + len(compressor.flush())
