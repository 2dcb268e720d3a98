"""A study small enough to run in a test: 2 seeds, one size, two learning rates, few steps."""

from pathlib import Path

import pytest
import torch

from billhook.study.grid import plan
from billhook.study.records.store import Store
from billhook.study.report.output import write_report
from billhook.study.report.report import load_report
from billhook.study.run.workers import run_trials
from billhook.study.spec import Study, load_study
from tests.study.in_process import InProcess

TINY = """
name = "tiny"
family = "digits"
recipe = "demo"
seeds = [0, 1]
small_widths = [12]
large_width = 64
learning_rates = [0.01, 0.03]
choose_by = "cross_entropy"
[overrides.data]
train = 256
[overrides.training]
steps = 60
batch_size = 32
[overrides.pruning]
updates = 3
"""


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_file: Path) -> Study:
    return load_study(str(tiny_file))


@pytest.fixture(scope="session")
def study_results(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran without interruption, in this very process."""
    study = load_study(str(tiny_file))
    grid, store = plan(study), Store(tmp_path_factory.mktemp("finished") / "results")
    store.begin(grid.study)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_trials(store, grid, InProcess(store), lambda: None)
    torch.set_num_threads(threads)
    write_report(load_report(store), store)
    return store.folder
