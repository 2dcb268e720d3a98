"""``billhook plan``: what it says is what ``billhook train`` then does."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from billhook.cli import app as cli
from billhook.cli.bodies.plan import of_own_run, of_recipe
from billhook.errors import ConfigurationError
from billhook.tasks.recipe import load_recipe

OWN = ["--learning-rate", "0.1", "--steps", "1000", "--begin", "100", "--end", "600"]
RECIPE = """
family = "mobilenet_v1"
notes = ""
model = { width = 0.125 }
data = { pixels = 32 }
optimizer = { kind = "SGD", lr = 0.1 }
schedule = { kind = "cosine", warmup = 0.25 }
training = { batch_size = 100, epochs = 1, evaluate_every = 0.1 }
pruning = { begin = 0.2, end = 0.7, updates = 4 }
"""


def test_the_plan_of_a_recipe_is_what_its_run_does(tmp_path: Path) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(RECIPE)
    found = of_recipe("mobilenet_v1", str(file), 0.8)
    arguments = ["train", "mobilenet_v1", "--recipe", str(file), "--sparsity", "0.8"]
    result = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.exception
    with (tmp_path / "run" / "metrics.csv").open() as lines:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    assert found.steps == rows[-1]["step"]
    for row in rows:
        step = int(row["step"])
        assert row["lr"] == found.rates[step - 1]
        assert row["sparsity"] == pytest.approx(found.schedule(step), abs=1e-3)


@pytest.mark.parametrize(
    ("family", "recipe", "steps_per_epoch"),
    [
        ("mobilenet_v1", "paper", 2_001),
        ("inception_v3", "paper", 4_003),
        ("gnmt", "paper", 35_000),
        ("ptb_lstm", "paper", 2_323),
        ("ptb_lstm", "paper-medium", 1_327),
        ("ptb_lstm", "paper-large", 1_327),
        ("inception_v3", "laptop", 421),
        ("mobilenet_v1", "laptop", 843),
        ("gnmt", "laptop", 492),
        ("ptb_lstm", "laptop", 1_291),
    ],
)
def test_the_windows_of_our_recipes_leave_time_to_recover(
    family: str, recipe: str, steps_per_epoch: int
) -> None:
    assert of_recipe(family, recipe, 0.9, steps_per_epoch=steps_per_epoch).warnings == ()


def test_the_model_of_the_recipe_is_looked_at() -> None:
    arguments = "mobilenet_v1(width=0.125, num_classes=10)"
    found = of_recipe(arguments, "laptop", 0.999, steps_per_epoch=468)
    assert any("'classifier.weight' would keep" in warning for warning in found.warnings)
    recipe = load_recipe("mobilenet_v1", "laptop")
    assert found.rates[7] == recipe.learning_rate(7, 468)


def test_a_run_of_ones_own_from_the_folder_it_lives_in(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def rate(step): return 0.1 if step < 500 else 1e-4\n")
    arguments = ["--learning-rate", "mine:rate", "--steps", "1000", "--begin", "100"]
    command = [str(Path(sys.executable).parent / "billhook"), "plan", *arguments, "--end", "900"]
    result = subprocess.run(
        [*command, "--plot", "plan.svg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert "5 mask updates from step 500 on fall where the learning rate is below 2%" in (
        result.stdout
    )
    assert (tmp_path / "plan.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "nothing to plan"),
        (["--learning-rate", "0.1", "--steps", "9", "--end", "5"], "give --begin too"),
        (
            ["--learning-rate", "nowhere:rate", "--steps", "9", "--begin", "0", "--end", "100"],
            "names nothing",
        ),
        (["mine:network(width=2)"], "a network of your own, which has no recipe"),
        (["mobilenet_v1(", "--recipe", "paper"], "is not a name"),
        (["mobilenet_v1", "--steps-per-epoch", "9", "--end", "999"], "the run has 135"),
    ],
)
def test_bad_input_is_named(arguments: list[str], cause: str) -> None:
    result = CliRunner().invoke(cli.app, ["plan", *arguments])
    assert result.exit_code == 1
    assert cause in str(result.exception)


def test_own_runs_have_their_layers_looked_at_too() -> None:
    found = of_own_run(
        "torch.nn:Linear(in_features=5, out_features=20)",
        "0.1",
        100,
        0.9,
        begin=10,
        end=50,
        frequency=10,
    )
    assert "'weight' would keep 10 of 100 weights" in found.warnings[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["mobilenet_v1", "--steps", "10"], "--steps 10 belongs to a run of your own"),
        (["mobilenet_v1", "--frequency", "10"], "--frequency 10 belongs to a run of your own"),
        ([*OWN, "--recipe", "paper"], "--recipe paper belongs to a recipe's run"),
        ([*OWN, "--data", "here"], "--data here belongs to a recipe's run"),
        ([*OWN, "--steps-per-epoch", "9"], "--steps-per-epoch 9 belongs to a recipe's run"),
    ],
)
def test_options_of_the_other_kind_of_plan_are_refused(options: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["plan", *options])
    assert isinstance(result.exception, ConfigurationError)
    assert message in str(result.exception)
