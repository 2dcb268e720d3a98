"""Every Python block in README.md and docs/ and every doctest runs in a folder of its own."""

import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# Triton looks at this when it is first imported, by whichever file is collected first.
os.environ.setdefault("TRITON_INTERPRET", "1")

#: Doctests are collected by importing; these modules need an extra that may not be installed.
_NEEDS = {
    "triton": ["src/billhook/backends/triton_kernels.py", "tests/backends/compile_kernels.py"],
    "griffe": ["docs/griffe_extension.py"],
}
collect_ignore = [
    file
    for package, files in _NEEDS.items()
    if importlib.util.find_spec(package) is None
    for file in files
]


def _enter(namespace: dict[str, Any]) -> None:
    namespace["_folder"] = tempfile.TemporaryDirectory()
    namespace["_home"] = os.getcwd()
    os.chdir(namespace["_folder"].name)


def _leave(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["*.md"], setup=_enter, teardown=_leave
).pytest()


@pytest.fixture(autouse=True)
def _doctest_folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctests may write files: each runs in an empty folder."""
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(tmp_path)
