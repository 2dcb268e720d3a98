"""Workers on a Ray cluster, for studies too large for one machine."""

import logging
import os
import socket
import sys
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from billhook.errors import ConfigurationError
from billhook.study.grid import Trial
from billhook.study.records.store import Store
from billhook.study.run.attempt import attempt
from billhook.study.run.choice import Group
from billhook.study.run.workers import settle_in
from billhook.study.subject import Place

__all__ = ["RayPool"]

_TIMEOUT = 10.0  # seconds to reach a cluster's address
_OBJECTS = 100 * 2**20  # bytes of shared memory: trials and outcomes are small


class RayPool:
    """One Ray task an attempt, one CPU each. Ray places them; the queue stays the driver's.

    Args:
        store: must be in a folder that every node of the cluster sees under the same path.
        address: ``HOST:PORT``, ``ray://HOST:PORT``, ``auto``, or ``local`` for a cluster of this
            machine alone that ends with the study.
        workers: the CPUs of a ``local`` one.
        place: where every node finds the data and the user's own module.

    Raises:
        ConfigurationError: nobody answers at ``address``, or Ray is not installed.
    """

    slots: int = sys.maxsize  # Ray holds what it has no CPU for, and scales by it

    def __init__(self, store: Store, address: str, workers: int, place: Place) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if ":" in address:
            _check_reachable(address)
        import ray
        from ray import exceptions

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            options |= {"num_cpus": workers, "include_dashboard": False}
            options |= {"object_store_memory": _OBJECTS}
        try:
            ray.init(address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigurationError(
                f"no Ray cluster at {address!r} ({error}): give HOST:PORT of a running one, auto, "
                "or local"
            ) from None
        self.deaths: tuple[type[BaseException], ...] = (
            exceptions.WorkerCrashedError,
            exceptions.OutOfMemoryError,
            exceptions.NodeDiedError,
        )
        self._store, self._place = Store(store.folder.absolute()), _absolute(place)
        # run_trials sees to the deaths of workers, so that every pool has the same rule for them
        self._attempt = ray.remote(num_cpus=1, max_retries=0)(_attempt)
        self._shutdown = ray.shutdown

    def submit(self, group: Group, trial: Trial) -> Future[None]:
        """Queue ``trial`` on the cluster."""
        attempted = self._attempt.remote(self._store, group, trial, self._place)
        future: Future[None] = attempted.future()
        return future

    def close(self) -> None:
        """Leave the cluster, which ends this driver's tasks."""
        self._shutdown()


def _attempt(store: Store, group: Group, trial: Trial, place: Place) -> None:
    settle_in()
    attempt(store, group, trial, place)


def _absolute(place: Place) -> Place:
    """The same place for a process in another working folder."""
    data = None if place.data is None else place.data.absolute()
    modules = None if place.modules is None else place.modules.absolute()
    return replace(place, data=data, modules=modules)


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes.

    Raises:
        ConfigurationError: nobody listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_TIMEOUT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigurationError(
            f"no Ray cluster at {address!r} ({error}): give HOST:PORT of a running one, auto, or "
            "local"
        ) from None
