import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import billhook
from billhook.cli.app import app
from billhook.data.text import load_text
from billhook.models import ptb_lstm
from billhook.tasks.language import perplexity

MODULE = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

def metric(model):
    assert not model.training
    return -(model(torch.ones(1, 4)) - net()(torch.ones(1, 4))).abs().sum()
"""


def _run(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "billhook", "sensitivity", "mine:net", "--evaluate"]
    result = subprocess.run(
        [*command, "mine:metric", "--sparsity", "0.5", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    return result.stdout


def test_the_scan_of_an_own_network(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    shown = _run(tmp_path, "--tolerance", "10", "--file", "scan.jsonl")
    rules = next(line for line in shown.splitlines() if line.startswith("rules = "))
    assert ast.literal_eval(rules.removeprefix("rules = ")) == {"0.weight": 0.5, "2.weight": 0.5}
    assert len((tmp_path / "scan.jsonl").read_text().splitlines()) == 4
    data = json.loads(_run(tmp_path, "--json", "--file", "scan.jsonl"))
    assert data["dense"] == 0.0
    assert data["metrics"].keys() == {"0.weight", "2.weight"}


def _text(folder: Path) -> Path:
    """A text of ten words in which each follows the one before it."""
    folder.mkdir()
    for part, lines in (("train", 100), ("valid", 12), ("test", 8)):
        (folder / f"my.{part}.txt").write_text("a b c d e f g h i\n" * lines)
    return folder


def test_a_family_is_scanned_on_its_validation_data_and_goes_on(tmp_path: Path) -> None:
    data, weights, log = _text(tmp_path / "text"), tmp_path / "w.safetensors", tmp_path / "s.jsonl"
    text = load_text(data)
    torch.manual_seed(0)
    model = ptb_lstm(hidden=6, vocab=len(text.vocab))
    billhook.save(model, weights)
    command = ["sensitivity", "ptb_lstm(hidden=6)", "--data", str(data)]
    command += ["--weights", str(weights), "--sparsity", "0.9", "--file", str(log)]
    result = CliRunner().invoke(app, [*command, "--tolerance", "1e9", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    pruned = {name for name, p in model.named_parameters() if p.dim() == 2}
    assert found["metrics"].keys() == pruned
    assert found["rules"] == dict.fromkeys(pruned, 0.9)  # lower perplexity is better, and known
    assert found["dense"] == pytest.approx(perplexity(model.eval(), text.valid))
    before = log.read_text()
    plot = tmp_path / "scan.svg"
    again = CliRunner().invoke(app, [*command, "--tolerance", "0", "--json", "--plot", str(plot)])
    assert again.exit_code == 0, again.output
    assert log.read_text() == before  # nothing was measured twice
    assert plot.stat().st_size > 1_000
    unknown = CliRunner().invoke(app, [*command, "--metric", "bleu"])
    assert "--metric bleu is not measured on the validation data of ptb_lstm" in str(
        unknown.exception
    )


def test_a_metric_is_one_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "several.py").write_text(
        "import torch\ndef net(): return torch.nn.Linear(4, 4)\ndef metric(m): return m.weight\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = CliRunner().invoke(app, ["sensitivity", "several:net", "--evaluate", "several:metric"])
    assert str(result.exception) == (
        "--evaluate several:metric returned a Parameter that is not one number: "
        "return the metric of the model that it is given"
    )


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ([], "not neither"),
        (["--data", ".", "--evaluate", "math:sqrt"], "not both"),
        (["--data", "."], "give --weights too"),
    ],
)
def test_what_measures_the_network_is_given_once(options: list[str], cause: str) -> None:
    result = CliRunner().invoke(app, ["sensitivity", "mobilenet_v1", *options])
    assert result.exit_code != 0
    assert cause in str(result.exception)


def test_data_are_for_billhooks_own_families() -> None:
    result = CliRunner().invoke(app, ["sensitivity", "torch.nn:Linear", "--data", "."])
    assert "give --evaluate module:function" in str(result.exception)
