"""The examples run as their first lines say."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from billhook.cli.app import app

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def test_torchrun_on_two_processes() -> None:
    source = (ROOT / "examples" / "ddp_fsdp.py").read_text()
    line = re.search(r"^    torchrun (.*)$", source, re.MULTILINE)
    assert line is not None
    command = [sys.executable, "-m", "torch.distributed.run", *line.group(1).split()]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = re.findall(r"(\w+): (\d+) of (\d+) weights are left", ran.stdout)
    expected = round(0.1 * 32 * 64) + round(0.1 * 64)
    assert found == [
        ("DistributedDataParallel", str(expected), "2112"),
        ("FSDPSequential", str(expected), "2112"),
    ]


def _run(*arguments: str, cwd: Path) -> str:
    """What an example prints, with one thread and no warnings."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_own_cnn(tmp_path: Path) -> None:
    shown = _run(str(EXAMPLES / "own_cnn.py"), "--epochs", "2", cwd=tmp_path)
    (nonzero,) = re.findall(r"weights that are not zero +([\d,]+) +([\d,]+)", shown)
    dense, sparse = (int(count.replace(",", "")) for count in nonzero)
    assert sparse < 0.11 * dense
    (sizes,) = re.findall(r"bytes of the file +([\d,]+) +([\d,]+)", shown)
    for name, size in zip(("dense", "sparse"), sizes, strict=True):
        path = tmp_path / "runs" / f"own_cnn-{name}.billhook.safetensors"
        assert path.stat().st_size == int(size.replace(",", ""))


def test_hugging_face(tmp_path: Path) -> None:
    shown = _run(str(EXAMPLES / "huggingface.py"), "--steps", "40", cwd=tmp_path)
    assert re.search(r"accuracy \d+\.\d%, file [2-9]\.\d times smaller", shown)


def test_lightning(tmp_path: Path) -> None:
    shown = _run(str(EXAMPLES / "lightning_digits.py"), "--epochs", "2", cwd=tmp_path)
    assert re.search(r"accuracy \d+\.\d%, file [5-9]\.\d times smaller", shown)


def test_a_study_of_an_own_network_on_text(tmp_path: Path) -> None:
    for name in ("own_text.py", "own_text.toml"):
        (tmp_path / name).write_text((EXAMPLES / name).read_text())
    file = tmp_path / "own_text.toml"
    text = file.read_text().replace("[0.01, 0.02]", "[0.01]\nseeds = [0, 1]")
    text = text.replace("128", "16").replace("[32, 64]", "[8]")
    file.write_text(text + "\n[overrides.training]\nepochs = 0.05\nevaluate_every = 0.05\n")
    arguments = ["study", "run", str(file), "--results", str(tmp_path / "results")]
    done = CliRunner().invoke(app, [*arguments, "--workers", "1"])
    assert done.exit_code == 0, done.exception
    assert "test_perplexity" in (tmp_path / "results" / "rows.csv").read_text()


def test_the_notebook(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "five_minutes.ipynb", as_version=4)
    nbformat.validate(notebook)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's own
        nbclient.NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
    assert (tmp_path / "model.billhook.safetensors").exists()


def test_the_notebook_is_the_page() -> None:
    cells = json.loads((EXAMPLES / "five_minutes.ipynb").read_text())["cells"]
    page = (ROOT / "docs" / "five-minutes.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.strip("\n") for block in blocks]
