"""Locks between processes and machines that the system drops when their holder dies."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from billhook.errors import StateError

__all__ = ["is_locked", "locked"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Lock the file at ``path``, made if missing, for as long as the block runs.

    Yields:
        Whether the caller has the lock: False if somebody else does.

    Raises:
        StateError: this file system has no locks.
    """
    file = FileLock(path, blocking=False)
    try:
        file.acquire()
    except Timeout:
        yield False
        return
    except NotImplementedError as error:
        raise StateError(
            f"{path} cannot be locked ({error}), so that two processes might take one run: use a "
            "folder on another file system"
        ) from None
    try:
        yield True
    finally:
        file.release()


def is_locked(path: Path) -> bool:
    """Whether a process has the lock. In a folder that may only be read nobody can tell, and the
    answer is no."""
    if not path.exists():
        return False
    try:
        with locked(path) as free:
            return not free
    except PermissionError:
        return False
