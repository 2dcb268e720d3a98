"""Files that are complete or absent, whenever the process dies."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from billhook.errors import ConfigurationError, StateError

__all__ = ["remove_leftovers", "replacing", "write_bytes", "write_text"]

_NAME = 50  # characters of the hidden file's name: with four bytes each they leave room for ours


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``path`` in one step when the block ends.

    Until then, and if the block raises, ``path`` is what it was before. Links are followed, and a
    file that is replaced hands its permissions on. A killed process may leave a hidden ``.part``
    file beside it (:func:`remove_leftovers`).

    Raises:
        ConfigurationError: ``path`` is a device, a pipe or a socket, which a file must not replace.
        OSError: ``path`` is a folder, its folder is missing, or the disk refuses.

    >>> with replacing("result.txt") as file:
    ...     _ = file.write(b"whole")
    >>> Path("result.txt").read_text()
    'whole'
    """
    target = Path(os.path.realpath(path))
    permissions = _permissions(target)
    part = target.with_name(f".{target.name[:_NAME]}.{uuid.uuid4().hex}.part")
    with _naming(part, target):
        try:
            with open(part, "xb") as file:
                if permissions is not None:
                    os.chmod(part, permissions)
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    if os.name == "posix":  # the rename must reach the disk too; Windows cannot open folders
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _permissions(target: Path) -> int | None:
    """Those of the file at ``target``; None where there is none yet."""
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    if stat.S_ISLNK(mode):  # realpath leaves only links that lead to themselves
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(target))
    if not stat.S_ISREG(mode):
        raise ConfigurationError(
            f"{target} is a device, a pipe or a socket, and a file would take its place: write to "
            "a file, and copy it there"
        )
    return stat.S_IMODE(mode)


@contextlib.contextmanager
def _naming(part: Path, target: Path) -> Iterator[None]:
    """Errors about the hidden file name the one that the caller asked for."""
    try:
        yield
    except OSError as error:
        if error.filename != str(part):
            raise
        raise type(error)(error.errno, error.strerror, str(target)) from None


def write_text(path: Path, text: str) -> None:
    """:func:`write_bytes` of text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Put ``content`` in place of the file at ``path``, in one step.

    Raises:
        StateError: ``path`` is a symbolic link, which would write to some other place.
    """
    if path.is_symlink():
        raise StateError(
            f"{path} is a symbolic link to {path.readlink()}: it is not written through; remove it "
            "and give the command again"
        )
    with replacing(path) as file:
        file.write(content)


def remove_leftovers(folder: Path, names: Iterable[str] = ("*",)) -> None:
    """Delete what killed processes were writing when they died, of the files of these names.

    Only the one process that writes these files now may call it: it would delete another's files.
    """
    for name in names:
        for part in folder.glob(f".{name[:_NAME]}.{'[0-9a-f]' * 32}.part"):
            part.unlink(missing_ok=True)
