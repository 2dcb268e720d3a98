"""The table in the docs names tests that exist."""

import re
from pathlib import Path

from .ranks.launch import CHECKS

ROOT = Path(__file__).parents[2]


def test_every_row_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "training-matrix.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 25
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), (file, test)
    assert all(f"`{check}`" in text for check in CHECKS)
