"""Locks between processes and machines that the system drops when their holder dies."""

from typing import IO

from billhook.errors import StateError

__all__ = ["lock"]


def lock(file: IO[str], *, exclusive: bool) -> bool:
    """Lock ``file`` until it is closed, unless another process has it.

    Raises:
        StateError: this system or file system cannot.
    """
    try:
        import fcntl

        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError) as error:
        raise StateError(
            f"{file.name} cannot be locked ({error}), so that two processes might take one run: "
            "run the study on Linux or macOS, in a folder that supports flock"
        ) from None
    return True
