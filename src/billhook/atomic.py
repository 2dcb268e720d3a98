"""Files that are there whole or not at all, whenever the process dies."""

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from billhook.errors import StateError

__all__ = ["remove_leftovers", "replacing", "write_text"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``path`` in one step when the block ends.

    Until then, and if the block raises, ``path`` is what it was before. A killed process may leave
    a hidden ``.part`` file beside it (:func:`remove_leftovers`).

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
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and error.filename == str(part):  # name what was asked for
            raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
        raise
    if os.name == "posix":  # the rename must reach the disk too; Windows cannot open folders
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Put ``text`` in place of the file at ``path``, in one step.

    Raises:
        StateError: ``path`` is a symbolic link, which would write to some other place.
    """
    if path.is_symlink():
        raise StateError(
            f"{path} is a symbolic link to {path.readlink()}: it is not written through; remove it "
            "and give the command again"
        )
    with replacing(path) as file:
        file.write(text.encode())


def remove_leftovers(folder: Path, names: Iterable[str] = ("*",)) -> None:
    """Delete what killed processes were writing when they died, of the files of these names.

    For the one process that writes these files now: another's would be taken from it.
    """
    for name in names:
        for part in folder.glob(f".{name}.{'[0-9a-f]' * 32}.part"):
            part.unlink(missing_ok=True)
