"""What cannot be right is refused before anything runs, with place, value and fix."""

from pathlib import Path
from typing import Any

import pytest

from billhook.errors import ConfigurationError
from billhook.study.grid import plan
from billhook.study.spec import Study, load_study


def test_digits_ships() -> None:
    study = load_study("digits")
    assert len(study.seeds) == 10
    assert len(study.small_widths) >= 5
    assert plan(study).trials


def test_unknown_name_lists_what_ships() -> None:
    with pytest.raises(ConfigurationError, match=r"no study 'digit': .*: digits"):
        load_study("digit")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0, 1]", "seeds = [0, 0]", r"seeds \[0, 0\] repeat"),
        ("seeds = [0, 1]", "seeds = [0]", r"seeds \[0\]: .*at least 2"),
        ("steps = 60", "steps = 30", r"end_step 40 lies behind the last of 30"),
        ("steps = 60", "steps = -1", r"training.steps -1: .*greater than 0"),
        ("end_step = 40", "end_step = 45", r"off the update grid: .* use end_step=40 or 50"),
        ("large_width = 64", "large_width = 12", r"large_width is 12: the large network"),
        ("steps = 60", "stepz = 60", r"training.steps: Field required; training.stepz 60: Extra"),
        ("name", "name = ", r"not valid TOML"),
    ],
)
def test_bad_values_are_named(tiny_file: Path, old: str, new: str, message: str) -> None:
    bad = tiny_file.parent / "bad.toml"
    bad.write_text(tiny_file.read_text().replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=message):
        load_study(str(bad))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "letters"}, r"no family 'letters': use one of digits"),
        ({"choose_by": "f1"}, r"metric 'f1' is none .* accuracy, cross_entropy"),
        ({"small_widths": (2,)}, r"no sparsity makes .* as small as [\d,]+ bytes"),
    ],
)
def test_plan_refuses(tiny: Study, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(tiny.model_copy(update=change))


def test_more_examples_than_there_are(tiny: Study) -> None:
    greedy = tiny.data.model_copy(update={"test": 1500})
    with pytest.raises(ConfigurationError, match=r"256 \+ 100 \+ 1500 = 1856 of 1797 digits"):
        plan(tiny.model_copy(update={"data": greedy}))
