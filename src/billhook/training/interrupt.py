"""Ctrl-C and TERM as requests: the step ends first, so that the checkpoint is complete."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["stop_requests"]


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """A function that says whether the process was asked to stop within the block: by Ctrl-C, or by
    TERM, which a machine sends before it shuts down. A second request interrupts.

    Signals reach a program's main thread alone: in any other the function always says no.

    >>> with stop_requests() as stop:
    ...     before = stop()
    ...     signal.raise_signal(signal.SIGINT)
    ...     before, stop()
    (False, True)
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, frame)
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
