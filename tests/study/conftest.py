"""A study small enough to run in a test: 2 seeds, one size, two learning rates, few steps."""

from pathlib import Path

import pytest

from billhook.study.spec import Study, load_study

TINY = """
name = "tiny"
family = "digits"
seeds = [0, 1]
small_widths = [12]
large_width = 64
choose_by = "cross_entropy"
[data]
train = 256
validation = 100
test = 100
[training]
steps = 60
batch_size = 32
learning_rates = [0.01, 0.03]
weight_decay = 1e-4
[pruning]
begin_step = 10
end_step = 40
frequency = 10
"""


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def tiny(tiny_file: Path) -> Study:
    return load_study(str(tiny_file))
