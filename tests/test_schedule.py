import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook import Cubic, OneShot, Polynomial
from billhook.errors import ConfigurationError
from billhook.falling import Alternating, Cyclic
from billhook.schedule import Hold, Schedule

EXAMPLES: dict[str, Schedule] = {
    "cubic": Cubic(0.9, 10, 110, frequency=10),
    "cubic from 30%": Cubic(0.9, 10, 110, num_updates=20, initial_sparsity=0.3),
    "line": Polynomial(0.75, 0, 8, frequency=2, exponent=1.0),
    "one shot": OneShot(0.5, 7),
    "one shot, redrawn": OneShot(0.5, 7, 27, frequency=10),
    "last interval shorter": Cubic(0.9, 10, 115, frequency=10),
    "by default every 100 steps": Cubic(0.9, 10, 250),
    "spread": Cubic(0.9, 10, 110, num_updates=7),
}


@pytest.mark.parametrize("schedule", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_every_schedule_rises_from_begin_to_exactly_final(schedule: Schedule) -> None:
    steps = range(schedule.end_step + 20)
    values = [schedule(step) for step in steps]
    assert values == sorted(values)
    assert all(value == 0.0 for value in values[: schedule.begin_step])
    assert all(value == schedule.final_sparsity for value in values[schedule.end_step :])
    changes = {step for step in steps[1:] if values[step] != values[step - 1]}
    assert changes <= set(schedule.updates)
    assert schedule.updates[0] == schedule.begin_step
    assert schedule.updates[-1] == schedule.end_step
    assert dataclasses.replace(schedule) == schedule


@given(
    begin=st.integers(0, 10_000),
    frequency=st.integers(1, 1_000),
    count=st.integers(1, 300),
    final=st.floats(0.0, 0.999),
    share=st.floats(0.0, 1.0),
)
def test_cubic_is_equation_1(
    begin: int, frequency: int, count: int, final: float, share: float
) -> None:
    s_f, s_i, n, dt = final, final * share, count, frequency
    schedule = Cubic(s_f, begin, begin + n * dt, frequency=dt, initial_sparsity=s_i)
    for k in {0, 1, n // 2, n}:
        t = begin + k * dt
        assert schedule(t) == pytest.approx(s_f + (s_i - s_f) * (1 - (t - begin) / (n * dt)) ** 3)
    assert schedule == Cubic(s_f, begin, begin + n * dt, num_updates=n, initial_sparsity=s_i)


def test_figure_1_of_the_paper() -> None:
    """From 0 to 90% over 100 updates: 2x compression near 24, 4x near 45, 8x near 70, 10x at 100.

    The first update beyond each factor is 24, 45 and 70.
    """
    schedule = Cubic(0.9, 0, 100, frequency=1)
    first = [next(t for t in range(101) if 1 / (1 - schedule(t)) >= x) for x in (2, 4, 8)]
    assert first == [24, 45, 70]
    assert 1 / (1 - schedule(100)) == pytest.approx(10)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"final_sparsity": 1.0}, r"final_sparsity 1.0 is outside \[0, 1\)"),
        ({"final_sparsity": -0.1}, r"final_sparsity -0.1 is outside"),
        ({"final_sparsity": float("nan")}, r"final_sparsity nan is outside"),
        ({"initial_sparsity": 0.95}, r"initial_sparsity 0.95 is above final_sparsity 0.9"),
        ({"frequency": 0}, r"frequency 0 is below 1"),
        ({"frequency": 2.5}, r"frequency 2.5 is not a whole number"),
        ({"final_sparsity": "0.9"}, r"final_sparsity '0.9' is not a number"),
        ({"num_updates": 3}, r"contradict each other"),
        ({"frequency": None, "num_updates": 0}, r"num_updates 0 is below 1"),
        ({"frequency": None, "num_updates": 101}, r"num_updates 101 does not fit .* 100 steps"),
        ({"begin_step": -1}, r"begin_step -1 is below 0"),
        ({"end_step": 10}, r"end_step 10 is below 11"),
    ],
)
def test_bad_schedules_name_cause_value_and_fix(arguments: dict[str, Any], cause: str) -> None:
    good = {"final_sparsity": 0.9, "begin_step": 10, "end_step": 110, "frequency": 10}
    with pytest.raises(ConfigurationError, match=cause):
        Cubic(**(good | arguments))


def test_bad_exponent_and_one_shot() -> None:
    with pytest.raises(ConfigurationError, match="exponent 0"):
        Polynomial(0.9, 0, 10, frequency=1, exponent=0)
    with pytest.raises(ConfigurationError, match=r"final_sparsity 1.5"):
        OneShot(1.5)
    with pytest.raises(ConfigurationError, match="frequency 0"):
        OneShot(0.5, 3, frequency=0)


@given(begin=st.integers(0, 500), window=st.integers(1, 500), frequency=st.integers(1, 600))
def test_the_last_update_falls_on_end_step(begin: int, window: int, frequency: int) -> None:
    schedule = Cubic(0.9, begin, begin + window, frequency=frequency)
    gaps = [after - before for before, after in itertools.pairwise(schedule.updates)]
    assert set(gaps[:-1]) <= {frequency}
    assert 1 <= gaps[-1] <= frequency
    for step in schedule.updates:  # eq. 1 on the steps themselves
        progress = (step - begin) / window
        assert schedule(step) == pytest.approx(0.9 - 0.9 * (1 - progress) ** 3)
    assert begin + window in schedule.updates
    assert begin + window + 1 not in schedule.updates


@given(window=st.integers(1, 500), share=st.floats(0, 1))
def test_updates_are_spread_as_evenly_as_whole_steps_allow(window: int, share: float) -> None:
    count = max(1, round(share * window))
    updates = Cubic(0.9, 3, 3 + window, num_updates=count).updates
    gaps = [after - before for before, after in itertools.pairwise(updates)]
    assert len(gaps) == count
    assert max(gaps) - min(gaps) <= 1
    assert [step for step in range(3 + window + 2) if step in updates] == list(updates)


@pytest.mark.parametrize("total", [2, 3, 10, 999, 1_000, 123_457])
def test_a_schedule_over_a_run_ends_within_it(total: int) -> None:
    schedule = Cubic.over(total, 0.9)
    assert 0 <= schedule.begin_step < schedule.end_step <= 0.8 * total + 1
    assert len(schedule.updates) >= min(10, schedule.end_step - schedule.begin_step)
    assert Polynomial.over(1_000, 0.5, exponent=1.0, num_updates=4).num_updates == 4
    with pytest.raises(ConfigurationError, match="total_steps 1 is below 2"):
        Cubic.over(1, 0.9)


def test_a_target_of_its_own_keeps_the_curve() -> None:
    schedule = Cubic(0.8, 0, 100, frequency=10, initial_sparsity=0.6)
    lower = schedule.towards(0.4)
    for step in range(101):
        assert lower(step) == pytest.approx(schedule(step) / 2)
    with pytest.raises(ConfigurationError, match=r"Hold\(\) takes each tensor's zeros"):
        Hold().towards(0.5)


def test_what_falls() -> None:
    phases = Alternating(0.9, 10, 50, frequency=10)
    assert [phases(step) for step in (9, 10, 19, 20, 30, 45, 50)] == [0, 0.9, 0.9, 0, 0.9, 0, 0.9]
    odd = Alternating(0.9, 0, 30, frequency=10)  # ends sparse whatever the number of phases
    assert [odd(step) for step in (0, 10, 20, 30)] == [0.9, 0.0, 0.9, 0.9]
    cycles = Cyclic(0.8, 0, 11, frequency=1, cycles=3)
    assert [round(cycles(step), 3) for step in range(4)] == [0.0, 0.563, 0.77, 0.8]
    assert [cycles(step) for step in (3, 7, 11)] == [0.8, 0.8, 0.8]
    with pytest.raises(ConfigurationError, match="cannot be divided into 2 cycles.*num_updates=7"):
        Cyclic(0.8, 0, 6, frequency=1, cycles=2)
    with pytest.raises(ConfigurationError, match="initial_sparsity 0.5 has no meaning"):
        Alternating(0.9, 0, 30, frequency=10, initial_sparsity=0.5)


@pytest.mark.parametrize(
    "schedule",
    [
        Cubic(0.9, 3, 10**15, frequency=7),
        Cubic(0.9, 3, 10**15, num_updates=10**12),
        Cubic(0.9, 3, 10**15, frequency=1),
    ],
)
def test_windows_of_any_length_take_no_memory(schedule: Schedule) -> None:
    updates = schedule.updates
    assert (updates[0], updates[-1]) == (3, 10**15)
    assert schedule.num_updates is not None
    assert len(updates) == schedule.num_updates + 1
    assert updates[10**6] in updates
    assert 3 + 10**15 not in updates
    assert list(updates[:3]) == [updates[0], updates[1], updates[2]]
    assert schedule(10**15 - 1) <= schedule(10**15) == 0.9


@pytest.mark.parametrize("schedule", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_the_steps_of_updates_are_found_as_in_a_tuple(schedule: Schedule) -> None:
    steps = tuple(schedule.updates)
    assert len(schedule.updates) == len(steps)
    assert [t for t in range(schedule.end_step + 5) if t in schedule.updates] == list(steps)
    assert schedule.updates[-1] == steps[-1] == schedule.end_step


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    steps: Any = np.array([0, 100, 10])
    schedule = Cubic(0.9, steps[0], steps[1], frequency=steps[2])
    assert schedule == Cubic(0.9, 0, 100, frequency=10)
    assert repr(schedule) == repr(Cubic(0.9, 0, 100, frequency=10))
