"""A trial is what its configuration says: deterministic, resumable, and of the planned bytes."""

import dataclasses
from pathlib import Path

import pytest
import torch

import billhook
from billhook.errors import ConfigurationError, StateError
from billhook.study.grid import SPARSE, Trial, plan
from billhook.study.records.outcome import Progress
from billhook.study.records.store import Store
from billhook.study.run.choice import groups
from billhook.study.run.ray_pool import _absolute
from billhook.study.run.rehearsal import rehearse
from billhook.study.run.trial import run_trial
from billhook.study.sizes import encoding_of
from billhook.study.spec import Study
from billhook.study.subject import Place
from billhook.tasks.digits import Digits, digits
from billhook.tasks.recipe import load_recipe
from billhook.training.loop import MODEL_FILE
from tests.study.outcomes import outcome


def sparse_trial(study: Study) -> Trial:
    return next(trial for trial in plan(study).trials if trial.arm == SPARSE)


def test_same_configuration_same_file(tiny: Study, tmp_path: Path) -> None:
    trial = sparse_trial(tiny)
    outcomes, files = [], []
    for seed in (1, 2):  # the caller's generator has no part in it
        torch.manual_seed(seed)
        outcomes.append(run_trial(trial, tmp_path / str(seed), lambda _: None))
        files.append((tmp_path / str(seed) / MODEL_FILE).read_bytes())
    first, second = (dataclasses.replace(each, seconds=0.0) for each in outcomes)
    assert first == second
    assert files[0] == files[1]


def test_workers_train_on_the_device_that_was_asked_for(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "data", device="cuda")
    assert _absolute(place) == place
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="--device cuda: torch finds no CUDA device"):
        run_trial(sparse_trial(tiny), tmp_path, lambda _: None, Place(device="cuda"))
    with pytest.raises(ConfigurationError, match="--device cuda"):
        rehearse(plan(tiny), Place(device="cuda"))


class KilledError(Exception):
    """In place of a signal."""


def test_a_trial_continues_from_its_checkpoint(tiny: Study, tmp_path: Path) -> None:
    recipe = tiny.recipe.changed(training={"checkpoint_every": 25})
    trial = sparse_trial(tiny.model_copy(update={"recipe": recipe}))
    killed, whole = tmp_path / "killed", tmp_path / "whole"

    def kill(progress: Progress) -> None:
        if progress.step > 30:
            raise KilledError

    with pytest.raises(KilledError):
        run_trial(trial, killed, kill)
    assert (killed / "checkpoint.pt").exists()
    steps: list[int] = []
    run_trial(trial, killed, lambda progress: steps.append(progress.step))
    assert min(steps) > 25
    run_trial(trial, whole, lambda _: None)
    assert (killed / MODEL_FILE).read_bytes() == (whole / MODEL_FILE).read_bytes()
    lines = [(each / "metrics.csv").read_text().splitlines() for each in (killed, whole)]
    assert [line.split(",")[0] for line in lines[0]] == [line.split(",")[0] for line in lines[1]]


def test_bytes_nonzeros_and_operations_are_the_planned_ones(tiny: Study, tmp_path: Path) -> None:
    trial, point = sparse_trial(tiny), plan(tiny).points[0]
    seen: list[Progress] = []
    found = run_trial(trial, tmp_path, seen.append)
    assert found.bytes == point.sparse_bytes == trial.expected_bytes
    tensors = billhook.load(tmp_path / MODEL_FILE)
    kept = [round((1 - point.sparsity) * n) for n in (4_096, 4_096, 640)]
    assert [int(tensors[f"{i}.weight"].count_nonzero()) for i in (0, 2, 4)] == kept
    assert found.nonzero == sum(kept) + 64 + 64 + 10 == trial.expected_nonzero
    assert found.inference_operations == sum(kept) == trial.inference_operations
    assert found.training_operations == 3 * 8_832 * 60 * 32
    assert found.bytes_dense > found.bytes_bitmask == found.bytes
    assert seen[-1].step == trial.steps == 60
    assert seen[-1].sparsity == pytest.approx(point.sparsity, abs=1e-3)


def test_other_bytes_than_planned_fail(tiny: Study, tmp_path: Path) -> None:
    trial = dataclasses.replace(sparse_trial(tiny), expected_bytes=5_000)
    with pytest.raises(StateError, match=r"has 4,9\d\d bytes, 5,000 were planned"):
        run_trial(trial, tmp_path, lambda _: None)


@pytest.mark.parametrize("codings", [("auto",), ("dense", "entropy")])
def test_codings_whose_bytes_depend_on_the_mask(
    tiny: Study, tmp_path: Path, codings: tuple[str, ...]
) -> None:
    study = Study.model_validate(tiny.model_dump() | {"codings": codings})
    trial, point = sparse_trial(study), plan(study).points[0]
    assert trial.expected_bytes == point.sparse_bytes <= point.dense_bytes
    assert point.sparsity < plan(tiny).points[0].sparsity
    found = run_trial(trial, tmp_path, lambda _: None)
    file = tmp_path / MODEL_FILE
    again = tmp_path / "again.billhook.safetensors"
    billhook.save(billhook.load(file), again, encoding=encoding_of(codings))
    assert again.read_bytes() == file.read_bytes()
    assert 0.98 * trial.expected_bytes < found.bytes <= 1.005 * trial.expected_bytes
    assert found.nonzero == trial.expected_nonzero
    for wrong in (
        dataclasses.replace(trial, expected_bytes=4_000),
        dataclasses.replace(trial, expected_nonzero=found.nonzero - 1),
    ):
        with pytest.raises(StateError, match=r"at most .* were planned"):
            run_trial(wrong, tmp_path / "x", lambda _: None)


def test_file_holds_the_network_that_was_validated(tiny: Study, tmp_path: Path) -> None:
    trial = sparse_trial(tiny)
    found = run_trial(trial, tmp_path, lambda _: None)
    task = digits(trial.width, trial.recipe)
    task.model.load_state_dict(billhook.load(tmp_path / MODEL_FILE))
    with torch.no_grad():
        assert task.evaluate(task.model, "valid") == found.validation


def test_a_trial_never_looks_at_test_data(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: set[str] = set()
    real = Digits.evaluate

    def evaluate(self: Digits, model: torch.nn.Module, split: str) -> dict[str, float | str]:
        splits.add(split)
        return real(self, model, split)

    monkeypatch.setattr(Digits, "evaluate", evaluate)
    run_trial(sparse_trial(tiny), tmp_path, lambda _: None)
    assert splits == {"valid"}


def test_parts_of_a_split_are_disjoint_and_differ_by_seed() -> None:
    recipe = load_recipe("digits", "demo")
    parts = []
    for seed in (0, 1):
        task = digits(8, recipe.changed(training={"seed": seed}))
        assert isinstance(task, Digits)
        assert [len(labels) for _, labels in task.parts.values()] == [900, 359, 538]
        parts.append(task.parts)
    sums = [torch.cat([pixels for pixels, _ in each.values()]).sum(dim=0) for each in parts]
    assert torch.equal(*sums)
    assert not torch.equal(parts[0]["test"][0], parts[1]["test"][0])


def test_choice_is_by_validation_and_ties_go_to_the_lower_rate(tiny: Study, tmp_path: Path) -> None:
    grid = plan(tiny)
    every = groups(grid, Store(tmp_path))
    best = {trial.group: trial for trial in grid.trials if trial.learning_rate == 0.03}
    tied = next(iter(best))
    outcomes = [
        outcome({"cross_entropy": 1.0 if trial.group == tied else 1.0 - trial.learning_rate})
        for trial in grid.trials
    ]
    by_trial = dict(zip(grid.trials, outcomes, strict=True))
    found = [group.best([by_trial[trial] for trial in group.trials]) for group in every]
    chosen = {trial.group: trial for trial in found if trial is not None}
    assert chosen.pop(tied).learning_rate == 0.01
    best.pop(tied)
    assert chosen == best


def test_a_loss_that_is_not_finite_ends_the_trial(tiny: Study, tmp_path: Path) -> None:
    trial = plan(tiny).trials[0]  # pruned or not
    hot = dataclasses.replace(trial, recipe=trial.recipe.changed(optimizer={"lr": 1e30}))
    with pytest.raises(StateError, match=r"the loss is (nan|inf) at step 50, learning rate"):
        run_trial(hot, tmp_path, lambda _: None)
    assert not (tmp_path / MODEL_FILE).exists()
