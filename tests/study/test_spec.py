"""What cannot be right is refused before anything runs, with place, value and fix."""

from pathlib import Path
from typing import Any

import pytest

from billhook.errors import ConfigurationError, DataError
from billhook.study.grid import plan
from billhook.study.spec import Study, load_study, question, shipped_studies
from billhook.study.subject import Place


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_valid(name: str) -> None:
    study = load_study(name)
    assert study.name == name
    assert study.learning_rates


def test_unknown_name_lists_what_ships() -> None:
    with pytest.raises(ConfigurationError, match=r"no study 'digit': .*: .*, digits, "):
        load_study("digit")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0, 1]", "seeds = [0, 0]", r"seeds \[0, 0\] repeat"),
        ("seeds = [0, 1]", "seeds = [0]", r"seeds \[0\]: .*at least 2"),
        ("seeds = [0, 1]", "seedz = [0, 1]", r"unknown key seedz: did you mean seeds\?"),
        ("steps = 60", "steps = -1", r"training.steps -1: .*greater than 0"),
        ("steps = 60", "stepz = 60", r"unknown key training.stepz: did you mean steps\?"),
        ("[overrides.data]", "[overrides.date]", r"unknown key overrides.date: the sections"),
        ("[overrides.data]", "[data]", r"\[data\] is .* write \[overrides.data\]"),
        ("large_width = 64", "large_width = 12", r"large_width is 12: the large network"),
        ("small_widths = [12]", "", r"nothing to compare: give small_widths, small_bytes"),
        ("small_widths = [12]", "small_widths = [12]\ndropouts = [0.5]", r"dropouts are for"),
        (
            "small_widths = [12]",
            "small_widths = [12]\nvariants = [{frequancy = 3}]",
            r"unknown key frequancy: did you mean frequency",
        ),
        (
            "small_widths = [12]",
            'small_widths = [12]\ncodings = ["auto", "dense"]',
            r'codings: "auto" is all of them',
        ),
        ('recipe = "demo"', 'recipe = "demos"', r"no recipe 'demos' for digits: take 'demo' or"),
        (
            "seeds =",
            'data_description = "mine"\nseeds =',
            r"data_description is not for study files",
        ),
        ("seeds =", 'found = "mine"\nseeds =', r"found is not for study files"),
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
        ({"family": "nowhere:model"}, r"'nowhere:model' names nothing"),
        ({"choose_by": "f1"}, r"metric 'f1' is not a metric .* accuracy, cross_entropy"),
        ({"metric": "f1"}, r"metric 'f1' is not a metric .* accuracy, cross_entropy"),
        ({"small_widths": (2.0,)}, r"no sparsity makes .* as small as [\d,]+ bytes"),
        ({"small_widths": (12.5,)}, r"width 12.5 of digits is not a whole number"),
        ({"small_widths": (), "small_bytes": (10,)}, r"no dense width below 64 .* 10 bytes"),
        ({"sparsities": (0.927,)}, r"meet the same dense file of 4,960 bytes"),
    ],
)
def test_plan_refuses(tiny: Study, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan(tiny.model_copy(update=change))


OWN = """
from torch import nn
def constant(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
def grows(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(768, int(width)), nn.Linear(int(width), 10))
def not_a_network(width):
    return width
def asks(width, classes, *, pixels, depth=1):
    size = int(width)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * pixels**2, size), nn.Linear(size, classes))
def asks_for_more(width, vocab):
    return nn.Linear(int(width), vocab)
def wrong_shape(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(7, int(width)))
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"family": "own_models:asks"}, ""),
        (
            {"family": "own_models:asks_for_more"},
            "needs an argument 'vocab': beside the width it can ask for classes, pixels",
        ),
        ({"family": "own_models:wrong_shape"}, "at width 32 fails on a batch .* RuntimeError"),
        ({"family": "own_models:constant"}, "has to use the width it is given"),
        ({"family": "own_models:not_a_network"}, "returned a float, not a Module"),
        ({"choose_by": "bleu"}, "metric 'bleu' is not a metric"),
        ({"validation": 0.0}, "there are no validation data to choose by"),
    ],
)
def test_own_networks(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "own_models.py").write_text(OWN)
    held_out = {"pixels": 16, "train": 0, "validation": change.pop("validation", 0.2)}
    values = {
        "name": "own",
        "family": "own_models:grows",
        "task": "classification",
        "recipe": load_study("digits").recipe.changed(data=held_out),
        "large_width": 32,
        "small_widths": [8],
        "learning_rates": [0.1],
    }
    study = Study.model_validate(values | change)
    if not message:
        assert len(plan(study, Place(None, tmp_path)).trials) == 5 * 3
        return
    with pytest.raises(ConfigurationError, match=message):
        plan(study, Place(None, tmp_path))


def test_every_shipped_study_asks_something() -> None:
    for name in shipped_studies():
        assert len(question(name)) > 20


def test_more_examples_than_there_are(tiny: Study) -> None:
    greedy = tiny.recipe.changed(data={"train": 1500})
    with pytest.raises(DataError, match=r"train 1500 and validation 0.2 leave -62 of 1797"):
        plan(tiny.model_copy(update={"recipe": greedy}))
