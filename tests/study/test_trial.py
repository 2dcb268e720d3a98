"""A trial is what its configuration says: deterministic, and of the planned bytes."""

import dataclasses
from pathlib import Path

import pytest
import torch

import billhook
from billhook.errors import StateError
from billhook.study.choice import chosen_trials
from billhook.study.family import Examples, family
from billhook.study.grid import SPARSE, Trial, plan
from billhook.study.spec import Data, Study
from billhook.study.trial import Progress, load_model, run_trial
from tests.study.outcomes import outcome

FILE = "model.billhook.safetensors"


def sparse_trial(study: Study) -> Trial:
    return next(trial for trial in plan(study).trials if trial.arm == SPARSE)


def test_same_configuration_same_file(tiny: Study, tmp_path: Path) -> None:
    trial = sparse_trial(tiny)
    outcomes, files = [], []
    for seed in (1, 2):  # the caller's generator has no part in it
        torch.manual_seed(seed)
        outcomes.append(run_trial(trial, tmp_path, lambda _: None))
        files.append((tmp_path / FILE).read_bytes())
    first, second = (dataclasses.replace(each, seconds=0.0) for each in outcomes)
    assert first == second
    assert files[0] == files[1]


def test_bytes_and_nonzeros_are_the_planned_ones(tiny: Study, tmp_path: Path) -> None:
    trial, point = sparse_trial(tiny), plan(tiny).points[0]
    seen: list[Progress] = []
    found = run_trial(trial, tmp_path, seen.append)
    assert found.bytes == point.sparse_bytes
    tensors = billhook.load(tmp_path / FILE)
    kept = [round((1 - point.sparsity) * n) for n in (4_096, 4_096, 640)]
    assert [int(tensors[f"{i}.weight"].count_nonzero()) for i in (0, 2, 4)] == kept
    assert seen[-1].step == tiny.training.steps
    assert seen[-1].sparsity == point.sparsity


def test_file_holds_the_network_that_was_validated(tiny: Study, tmp_path: Path) -> None:
    trial = sparse_trial(tiny)
    found = run_trial(trial, tmp_path, lambda _: None)
    models = family(trial.family)
    validation = models.split(trial.seed, trial.data).validation
    again = models.evaluate(load_model(trial, tmp_path), validation)
    assert again == found.validation


def test_parts_of_a_split_are_disjoint_and_differ_by_seed() -> None:
    data = Data(train=900, validation=360, test=537)
    splits = [family("digits").split(seed, data) for seed in (0, 1)]
    for split in splits:
        parts = [split.train, split.validation, split.test]
        assert [len(part) for part in parts] == [900, 360, 537]
        sums = torch.cat([part.inputs for part in parts]).sum(dim=0)
        assert torch.equal(sums, torch.cat([p.inputs for p in _whole()]).sum(dim=0))
    assert not torch.equal(splits[0].test.inputs, splits[1].test.inputs)


def _whole() -> list[Examples]:
    split = family("digits").split(5, Data(train=1_795, validation=1, test=1))
    return [split.train, split.validation, split.test]


def test_choice_is_by_validation_and_ties_go_to_the_lower_rate(tiny: Study) -> None:
    grid = plan(tiny)
    best = {trial.group: trial for trial in grid.trials if trial.learning_rate == 0.03}
    tied = next(iter(best))
    outcomes = [
        outcome({"cross_entropy": 1.0 if trial.group == tied else 1.0 - trial.learning_rate})
        for trial in grid.trials
    ]
    chosen = {trial.group: trial for trial in chosen_trials(grid, outcomes)}
    assert chosen.pop(tied).learning_rate == 0.01
    best.pop(tied)
    assert chosen == best


def test_a_loss_that_is_not_finite_ends_the_trial(tiny: Study, tmp_path: Path) -> None:
    trial = dataclasses.replace(sparse_trial(tiny), learning_rate=1e30, pruning=None)
    with pytest.raises(
        StateError, match=r"the loss of .* is (nan|inf) at step \d+: take learning rate"
    ):
        run_trial(trial, tmp_path, lambda _: None)
    assert not (tmp_path / FILE).exists()
