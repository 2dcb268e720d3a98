"""Races: candidates timed in turn, so that what else the machine does hits all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

__all__ = ["interleaved_times", "race"]

Key = TypeVar("Key")

ROUNDS = 5
MIN_ROUNDS = 3
BUDGET_SECONDS = 0.5


def race(candidates: Mapping[Key, Callable[[], object]]) -> dict[Key, float]:
    """Milliseconds of one call of each candidate: the least of a few interleaved rounds.

    The least time is the one that disturbances touched least; half a second is spent at most,
    beyond a warm-up and three rounds.
    """
    best = dict.fromkeys(candidates, float("inf"))
    for call in candidates.values():
        call()
    started = time.perf_counter()
    for done in range(ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() - started > BUDGET_SECONDS:
            break
        for key, call in candidates.items():
            best[key] = min(best[key], _milliseconds(call))
    return best


def interleaved_times(
    candidates: Mapping[Key, Callable[[], object]], rounds: int, repeats: int = 1
) -> dict[Key, list[float]]:
    """Milliseconds of one call of each candidate, for every round, sorted; all take turns.

    A round calls each ``repeats`` times in a row: more than once lets what is small stay in cache.
    """
    times: dict[Key, list[float]] = {key: [] for key in candidates}
    for call in candidates.values():
        call()
    for _ in range(rounds):
        for key, call in candidates.items():
            times[key].append(sum(_milliseconds(call) for _ in range(repeats)) / repeats)
    return {key: sorted(values) for key, values in times.items()}


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3
