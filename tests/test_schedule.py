import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billhook import Cubic, OneShot, Polynomial
from billhook.errors import ConfigurationError
from billhook.schedule import Schedule

EXAMPLES: dict[str, Schedule] = {
    "cubic": Cubic(0.9, 10, 110, frequency=10),
    "cubic from 30%": Cubic(0.9, 10, 110, num_updates=20, initial_sparsity=0.3),
    "line": Polynomial(0.75, 0, 8, frequency=2, exponent=1.0),
    "one shot": OneShot(0.5, 7),
    "one shot, redrawn": OneShot(0.5, 7, 27, frequency=10),
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
        ({"frequency": None}, r"neither frequency nor num_updates"),
        ({"num_updates": 3}, r"contradict each other"),
        ({"frequency": None, "num_updates": 0}, r"num_updates 0 is below 1"),
        ({"frequency": None, "num_updates": 7}, r"use end_step=108 or 115"),
        ({"begin_step": -1}, r"begin_step -1 is below 0"),
        ({"end_step": 10}, r"end_step 10 is below 11"),
        ({"end_step": 125}, r"off the update grid.*use end_step=120 or 130"),
        ({"end_step": 15}, r"use end_step=20$"),
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
    with pytest.raises(ConfigurationError, match="off the update grid"):
        OneShot(0.5, 3, 10, frequency=2)
