"""Races: candidates timed in turn, so that what else the machine does hits all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

__all__ = ["interleaved_times", "race", "winner"]

Key = TypeVar("Key")

MIN_ROUNDS = 5
MAX_ROUNDS = 50
BUDGET_SECONDS = 0.1
NOISE = 0.1  # what repeated races of the same two 20 ms calls differ by


def race(candidates: Mapping[Key, Callable[[], object]]) -> dict[Key, float]:
    """Milliseconds of one call of each candidate: the least of many interleaved rounds.

    The least time is the one that disturbances touched least. A tenth of a second is spent at most,
    beyond a warm-up and five rounds.
    """
    best = dict.fromkeys(candidates, float("inf"))
    for call in candidates.values():
        call()
    started = time.perf_counter()
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() - started > BUDGET_SECONDS:
            break
        for key, call in candidates.items():
            best[key] = min(best[key], _milliseconds(call))
    return best


def winner(times: Mapping[Key, float], dense: Key) -> Key:
    """The fastest candidate; ``dense`` unless another is faster by more than noise (10%).

    >>> winner({"dense": 1.0, "sparse": 0.95}, "dense")
    'dense'
    >>> winner({"dense": 1.0, "sparse": 0.8}, "dense")
    'sparse'
    """
    best = min(times, key=lambda key: times[key])
    return best if times[best] < (1 - NOISE) * times[dense] else dense


def interleaved_times(
    candidates: Mapping[Key, Callable[[], object]],
    rounds: int,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[float]]:
    """Milliseconds of one call of each candidate, for every round, sorted; all take turns.

    A round calls each ``repeats`` times untimed, then the same number of times timed, so that each
    form is measured in its own steady state: the others have just displaced it from the caches.
    ``clock`` gives seconds; ``time.process_time`` leaves out what other processes take of a core.
    """
    times: dict[Key, list[float]] = {key: [] for key in candidates}
    for _ in range(rounds):
        for key, call in candidates.items():
            for _ in range(repeats):
                call()
            spent = sum(_milliseconds(call, clock) for _ in range(repeats))
            times[key].append(spent / repeats)
    return {key: sorted(values) for key, values in times.items()}


def _milliseconds(
    call: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    start = clock()
    call()
    return (clock() - start) * 1e3
