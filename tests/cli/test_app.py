"""What the command line says when something is missing."""

import importlib
import sys

import pytest

from billhook.cli import app as cli


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)  # importing it now fails
    monkeypatch.setattr(cli, "app", lambda: importlib.import_module("altair"))
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "needs altair" in (message := capsys.readouterr().err)
    assert "pip install 'billhook[study]'" in message


def test_an_error_of_ours_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["billhook", "inspect", __file__])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert capsys.readouterr().err.startswith("error: ")
