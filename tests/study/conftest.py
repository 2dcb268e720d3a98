"""A study small enough to run in a test: 2 seeds, one size, two learning rates, few steps."""

from pathlib import Path

import pytest

from billhook.study.spec import Study, load_study

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
