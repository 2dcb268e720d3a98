"""A run that was stopped and continued equals one that was not, bit for bit; and the command."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from billhook.allocation import LayerwiseConstant
from billhook.cli.app import app
from billhook.distillation import Teacher
from billhook.errors import ConfigurationError, StateError
from billhook.format import load
from billhook.global_ranking import Global
from billhook.tasks.build import build_task, synthetic_task
from billhook.tasks.digits import digits
from billhook.tasks.families import FAMILIES
from billhook.tasks.recipe import Recipe, load_recipe
from billhook.training.loop import (
    MODEL_FILE,
    Sparsity,
    pruning_schedule,
    train,
)
from billhook.training.loop import test_metrics as measured
from billhook.training.optimizer import build_optimizer
from billhook.training.precision import accelerator_for
from billhook.training.weights import teacher_for

QUIET = Console(quiet=True)


def tiny(family: str, **training: Any) -> Recipe:
    recipe = load_recipe(family, "laptop")
    common = {"batch_size": 32, "epochs": None, "steps": 12, "evaluate_every": 100.0} | training
    return {
        "mobilenet_v1": lambda: recipe.changed(
            model={"width": 0.1},
            data={"pixels": 16, "augment": (("RandomHorizontalFlip", {"p": 0.5}),)},
            training=common | {"ema_decay": 0.9},
        ),
        "ptb_lstm": lambda: recipe.changed(
            model={"hidden": 8, "dropout": 0.5}, data={"window": 5}, training=common
        ),
    }[family]()


@pytest.fixture
def other_precision() -> Iterator[None]:
    """Accelerate keeps to the first precision of a process: forget that, before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def run(
    recipe: Recipe, folder: Path, sparsity: Sparsity | None, stop_after: int | None = None
) -> tuple[nn.Module, dict[str, Any] | None]:
    torch.manual_seed(recipe.training.seed)
    task = build_task(recipe, None)
    result = train(
        task,
        recipe,
        folder,
        sparsity=sparsity,
        accelerator=Accelerator(cpu=True),
        console=QUIET,
        stop_after=stop_after,
    )
    return task.model, result


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("family", ["mobilenet_v1", "ptb_lstm"])
def test_a_continued_run_equals_an_uninterrupted_one(family: str, tmp_path: Path) -> None:
    recipe, sparsity = tiny(family), Sparsity(0.8, 3, 9)
    whole, result = run(recipe, tmp_path / "whole", sparsity)
    assert result is not None
    assert result["sparsity_of_pruned"] == pytest.approx(0.8, abs=0.01)
    for stop in (5, 8):  # within the pruning window: values kept aside, too
        _, none = run(recipe, tmp_path / "parts", sparsity, stop_after=stop)
        assert none is None
        torch.rand(7)  # whatever happens in between
    parts, continued = run(recipe, tmp_path / "parts", sparsity)
    assert continued is not None
    for key in ("valid", "nonzero"):
        assert continued[key] == result[key]
    state = parts.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.state_dict().items())
    logged = []
    for folder in (tmp_path / "whole", tmp_path / "parts"):
        with (folder / "metrics.csv").open(newline="") as file:
            logged.append([{**row, "seconds": ""} for row in csv.DictReader(file)])
    assert logged[0] == logged[1]
    assert math.isfinite(float(logged[0][-1]["train_loss"]))


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run(tiny("ptb_lstm"), tmp_path, None, stop_after=1)
    with pytest.raises(StateError, match="of another recipe: training was"):
        run(tiny("ptb_lstm", seed=1), tmp_path, None)
    with pytest.raises(StateError, match="of a dense run"):
        run(tiny("ptb_lstm"), tmp_path, Sparsity(0.5))


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this CPU has no bfloat16 LSTM"
)
@pytest.mark.usefixtures("other_precision")
def test_bf16_trains_in_bfloat16_and_keeps_weights_and_evaluation_in_fp32(tmp_path: Path) -> None:
    recipe = tiny("ptb_lstm", steps=2, checkpoint_every=1).changed(training={"bf16": True})
    task = build_task(recipe, None)
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    task.model.lstm.register_forward_hook(  # type: ignore[union-attr]
        lambda _, inputs, output: seen[task.model.training].add(output[0].dtype)
    )
    result = train(
        task,
        recipe,
        tmp_path,
        sparsity=Sparsity(0.5, 0, 1),
        accelerator=accelerator_for(recipe),
        console=QUIET,
    )
    assert result is not None
    measured(task, tmp_path, torch.device("cpu"))
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {each.dtype for each in task.model.parameters()} == {torch.float32}
    with pytest.raises(StateError, match="of another recipe: training was"):
        run(tiny("ptb_lstm", steps=2, checkpoint_every=1), tmp_path, Sparsity(0.5, 0, 1))


def test_a_recipe_without_bf16_is_written_as_it_always_was() -> None:
    recipe = load_recipe("ptb_lstm", "laptop")
    assert "bf16" not in recipe.model_dump(mode="json")["training"]
    asked = recipe.changed(training={"bf16": True})
    assert asked.model_dump(mode="json")["training"]["bf16"] is True
    assert asked.changed(training={"bf16": False}) == recipe


def test_the_result_counts_what_the_saved_model_holds(tmp_path: Path) -> None:
    _, result = run(tiny("mobilenet_v1"), tmp_path, Sparsity(0.9, 2, 8))
    assert result is not None
    assert result == json.loads((tmp_path / "result.json").read_text())
    saved = load(tmp_path / MODEL_FILE)
    kept = int(saved["blocks.5.pointwise.weight"].count_nonzero())
    assert result["file_bytes"] == (tmp_path / MODEL_FILE).stat().st_size
    size = saved["blocks.5.pointwise.weight"].numel()
    assert kept == round((1 - 0.9) * size)  # the moving average has the zeros too
    assert saved["stem.weight"].count_nonzero() == saved["stem.weight"].numel()


@pytest.mark.parametrize("allocation", [Global(), LayerwiseConstant()])
def test_the_papers_other_schemes_reach_the_same_sparsity(
    allocation: Global | LayerwiseConstant, tmp_path: Path
) -> None:
    _, result = run(tiny("ptb_lstm"), tmp_path, Sparsity(0.8, 2, 10, allocation))
    assert result is not None
    assert result["sparsity_of_pruned"] == pytest.approx(0.8, abs=1e-3)


def test_clipping_is_by_the_global_norm() -> None:
    recipe = tiny("ptb_lstm", clip_norm=0.01).changed(
        optimizer={"kind": "SGD", "lr": 1.0, "arguments": {}}, schedule={"warmup": 0.0}
    )
    torch.manual_seed(0)
    task = build_task(recipe, None)
    from billhook.training.loop import Run

    state = Run(task, recipe, None, Accelerator(cpu=True))
    before = [p.detach().clone() for p in task.model.parameters()]
    state.train_step(next(task.batches(0, 0, torch.device("cpu"))))
    moved = torch.cat(
        [(p - b).flatten() for p, b in zip(task.model.parameters(), before, strict=True)]
    )
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_weight_decay_spares_vectors_and_depthwise_weights() -> None:
    recipe = load_recipe("mobilenet_v1", "paper")
    with torch.device("meta"):
        from billhook.models import mobilenet_v1

        model = mobilenet_v1()
    decayed, spared = build_optimizer(model, recipe).param_groups
    assert decayed["weight_decay"] == 4e-5
    assert spared["weight_decay"] == 0
    assert sum(p.numel() for p in decayed["params"]) == 864 + 3_139_584 + 1_025_024
    wrong = recipe.changed(optimizer={"undecayed": ("*.deepwise.*",)})
    with pytest.raises(ConfigurationError, match="deepwise"):
        build_optimizer(model, wrong)


def test_the_pruning_window_lies_on_its_grid_and_in_the_run() -> None:
    recipe = load_recipe("ptb_lstm", "paper")
    for total in (29, 997, 17_251):
        schedule = pruning_schedule(recipe, Sparsity(0.9), total)
        assert schedule.begin_step == round(recipe.pruning.begin * total)
        last = round(recipe.pruning.end * total)
        assert last - schedule.interval < schedule.end_step <= last
        assert schedule(total) == 0.9
    assert pruning_schedule(recipe, Sparsity(0.9, 10, 110), 997).updates == range(10, 111)
    odd = pruning_schedule(recipe, Sparsity(0.9, 10, 900), 997)
    assert (odd.end_step, odd.frequency) == (900, 5)  # 890 = 178 * 5; 8, 7 and 6 do not divide it
    with pytest.raises(ConfigurationError, match="steps 10 to 2000, the run has 997"):
        pruning_schedule(recipe, Sparsity(0.9, 10, 2000), 997)


@pytest.mark.parametrize("family", ["mobilenet_v1", "inception_v3", "ptb_lstm", "gnmt"])
def test_every_family_takes_a_step_on_noise_of_its_shape(family: str) -> None:
    small: dict[str, dict[str, Any]] = {
        "mobilenet_v1": {"width": 0.1},
        "inception_v3": {"depth_multiplier": 0.05},
        "ptb_lstm": {"hidden": 8},
        "gnmt": {"units": 8},
    }
    recipe = load_recipe(family, "laptop").changed(model=small[family], training={"batch_size": 4})
    task = synthetic_task(recipe)
    loss = task.loss(task.model.train(), next(task.batches(0, 0, torch.device("cpu"))))
    loss.backward()
    assert torch.isfinite(loss)


def test_the_command_trains_prunes_and_refuses(tmp_path: Path) -> None:
    arguments = ["train", "mobilenet_v1", "--width", "0.1", "--epochs", "0.2"]
    out = ["--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*arguments, *out, "--sparsity", "0.5"])
    assert done.exit_code == 0, done.output
    assert "scikit-learn's digits" in done.output
    weights = str(tmp_path / "run" / MODEL_FILE)
    again = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "b"), "--init", weights])
    assert again.exit_code == 0, again.output
    for extra, message in (
        (["--units", "3"], "--units is not an option of mobilenet_v1"),
        (["--begin", "3"], "give --sparsity too"),
        (["--scheme", "odd"], "'odd' is not one of standard, layerwise, global"),
        (["--init", weights, "--width", "0.2"], "is of another model"),
        (["--init", "nowhere.pt"], "nowhere.pt is not a file"),
        (["--recipe", "desktop"], "no recipe 'desktop'"),
    ):
        failed = CliRunner().invoke(app, [*arguments, *extra, "--out", str(tmp_path / "c")])
        assert isinstance(failed.exception, ConfigurationError)
        assert message in str(failed.exception)


class _Knowing(nn.Module):
    """Is sure of the labels it is given, as a network of the family would say it."""

    def __init__(self, labels: torch.Tensor, classes: int, *, stateful: bool) -> None:
        super().__init__()
        self.logits = 1_000.0 * nn.functional.one_hot(labels, classes).float()
        self.stateful = stateful

    def forward(self, *inputs: Any) -> Any:
        return (self.logits, (torch.zeros(1), torch.zeros(1))) if self.stateful else self.logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_that_knows_the_labels_gives_every_familys_own_loss(family: str) -> None:
    """The divergence from one-hot probabilities is the cross entropy: over the same positions and
    in the same scale, whatever the teacher's share."""
    recipe = load_recipe(family, "laptop").changed(
        data={"augment": ()}, training={"batch_size": 4, "label_smoothing": 0.0, "aux_weight": 0.0}
    )
    torch.manual_seed(0)
    task = synthetic_task(recipe)
    batch = next(task.batches(0, 0, torch.device("cpu")))
    task.model.eval()
    hard = task.loss(task.model, batch)
    names = {"classification": "num_classes", "language": "vocab", "translation": "target_vocab"}
    arguments: dict[str, Any] = task.arguments  # type: ignore[attr-defined]
    classes = arguments[names[FAMILIES[family].kind]]
    network = _Knowing(batch[-1], classes, stateful=FAMILIES[family].kind == "language")
    for hardness in (0.0, 0.25, 1.0):
        task.load_state_dict({})
        task.teacher = Teacher(network, hardness, temperature=1.0)
        torch.testing.assert_close(task.loss(task.model, batch), hard)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("family", ["mobilenet_v1", "ptb_lstm"])
def test_a_continued_run_with_a_teacher_equals_an_uninterrupted_one(
    family: str, tmp_path: Path
) -> None:
    run(tiny(family, seed=1), tmp_path / "dense", None)
    teacher = str(tmp_path / "dense" / MODEL_FILE)
    recipe = tiny(family).changed(distillation={"teacher": teacher, "hardness": 0.9})
    expected, _ = run(recipe, tmp_path / "whole", Sparsity(0.8, 3, 9))
    run(recipe, tmp_path / "parts", Sparsity(0.8, 3, 9), stop_after=5)
    model, _ = run(recipe, tmp_path / "parts", Sparsity(0.8, 3, 9))
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    alone, _ = run(tiny(family), tmp_path / "alone", Sparsity(0.8, 3, 9))
    assert not all(map(torch.equal, model.parameters(), alone.parameters()))


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    missing = {"teacher": str(tmp_path / "missing.safetensors")}
    with pytest.raises(ConfigurationError, match="distillation.teacher .* is not a file"):
        run(tiny("ptb_lstm").changed(distillation=missing), tmp_path, None)
    wide = tiny("ptb_lstm").changed(model={"hidden": 9})
    run(wide, tmp_path / "wide", None)
    other = {"teacher": str(tmp_path / "wide" / MODEL_FILE)}
    with pytest.raises(ConfigurationError, match="distillation.teacher .* is of another model"):
        run(tiny("ptb_lstm").changed(distillation=other), tmp_path, None)
    own = load_recipe("digits", "demo").changed(distillation=other)
    with pytest.raises(ConfigurationError, match=r"\[distillation\] is not for Digits"):
        teacher_for(digits(8, own), own)
    with pytest.raises(ConfigurationError, match="distillation.teacher: Field required"):
        tiny("ptb_lstm").changed(distillation={"hardness": 0.9})
    with pytest.raises(ConfigurationError, match="distillation.hardness 2.0"):
        tiny("ptb_lstm").changed(distillation=other | {"hardness": 2.0})
    assert "distillation" not in tiny("ptb_lstm").model_dump(mode="json")  # as it always was


def test_the_command_takes_a_teacher(tmp_path: Path) -> None:
    common = ["train", "ptb_lstm", "--hidden", "8", "--epochs", "0.05"]
    dense = tmp_path / "dense"
    first = CliRunner().invoke(app, [*common, "--out", str(dense)])
    assert first.exit_code == 0, first.output
    taught = [*common, "--sparsity", "0.5", "--teacher", str(dense / MODEL_FILE)]
    done = CliRunner().invoke(app, [*taught, "--out", str(tmp_path / "taught")])
    assert done.exit_code == 0, done.output
    recipe = json.loads((tmp_path / "taught" / "result.json").read_text())["recipe"]
    assert recipe["distillation"]["teacher"] == str(dense / MODEL_FILE)
