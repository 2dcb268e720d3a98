import ast
import json
import os
import subprocess
import sys
from pathlib import Path

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
