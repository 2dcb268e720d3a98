"""A pool of workers that is no pool."""

from concurrent.futures import Future

from billhook.study.grid import Trial
from billhook.study.records.store import Store
from billhook.study.run.attempt import attempt
from billhook.study.run.choice import Group
from billhook.study.subject import Place

HERE = Place()


class DeathError(Exception):
    """A worker's."""


class InProcess:
    """Makes its attempts here and now; ``lethal`` trials kill their worker."""

    slots = 1
    deaths: tuple[type[BaseException], ...] = (DeathError,)

    def __init__(self, store: Store, lethal: Trial | None = None) -> None:
        self.store, self.lethal = store, lethal
        self.attempts: list[Trial] = []

    def submit(self, group: Group, trial: Trial) -> Future[None]:
        self.attempts.append(trial)
        future: Future[None] = Future()
        if trial == self.lethal:
            future.set_exception(DeathError("killed"))
        else:
            attempt(self.store, group, trial, HERE)
            future.set_result(None)
        return future

    def close(self) -> None: ...
