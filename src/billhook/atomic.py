"""Files that are there whole or not at all, whenever the process dies."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["replacing", "write_text"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``path`` in one step when the block ends.

    Until then, and if the block raises, ``path`` is what it was before. A killed process may leave
    a hidden ``.part`` file beside it.

    >>> with replacing("result.txt") as file:
    ...     _ = file.write(b"whole")
    >>> Path("result.txt").read_text()
    'whole'
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename must reach the disk too; Windows cannot open folders
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Put ``text`` in place of the file at ``path``, in one step."""
    with replacing(path) as file:
        file.write(text.encode())
