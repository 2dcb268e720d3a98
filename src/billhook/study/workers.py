"""Local worker processes, one thread each; all of them take their trials from the store."""

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from billhook.errors import BillhookError, StateError
from billhook.study.family import Place
from billhook.study.grid import Trial
from billhook.study.store import Store
from billhook.study.trial import Progress, run_trial

__all__ = ["run_trials"]

_POLL = 1.0  # seconds between looks at the store when no worker of ours has news


def run_trials(
    store: Store,
    trials: tuple[Trial, ...],
    workers: int,
    report: Callable[[Progress | None], None],
    place: Place = Place(),
) -> None:
    """Finish every one of ``trials`` with ``workers`` processes, and wait for those others run.

    Args:
        place: where data and own modules are.
        report: called with a worker's progress, and with None whenever it is time to look again.

    Raises:
        BillhookError: a trial failed.
        StateError: a worker died; what is finished is kept.
    """
    context = multiprocessing.get_context("spawn")
    processes = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(store, trials, theirs, place), daemon=True
            )
            process.start()
            theirs.close()
            processes[ours] = process
        for connection, message in _messages(list(processes), report):
            if isinstance(message, BillhookError):
                raise message
            if message is None:
                _check_exit(processes.pop(connection))
            else:
                report(message)
    finally:
        for process in processes.values():
            process.terminate()
            process.join()
    report(None)


def _messages(
    connections: list[Connection], report: Callable[[Progress | None], None]
) -> Iterator[tuple[Connection, Any]]:
    """What the workers send; None for one that has hung up."""
    while connections:
        ready = wait(connections, timeout=_POLL)
        if not ready:
            report(None)
        for connection in ready:
            assert isinstance(connection, Connection)
            try:
                message = connection.recv()
            except EOFError:
                message = None
                connections.remove(connection)
            yield connection, message


def _check_exit(process: Any) -> None:
    process.join()
    if process.exitcode != 0:
        raise StateError(
            f"a worker died with exit code {process.exitcode}: see what it printed above (a "
            "negative code is a signal; -9 is often memory); finished runs are kept, run the same "
            "command again to continue"
        )


def _work(
    store: Store, trials: tuple[Trial, ...], connection: Connection, place: Place = Place()
) -> None:
    """The body of a worker: first all that is free, then what other processes left unfinished."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)
    logging.getLogger("billhook").setLevel(logging.WARNING)  # not every selection of hundreds
    try:
        for patient in (False, True):
            for trial in trials:
                with store.take(trial, wait=patient) as mine:
                    if mine:
                        folder = store.run_folder(trial)
                        store.finish(trial, run_trial(trial, folder, connection.send, place))
    except BrokenPipeError:
        return  # the parent is gone: nobody waits for more
    except BillhookError as error:
        connection.send(error)
