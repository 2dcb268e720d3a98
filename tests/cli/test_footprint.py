"""Tables 5 and 6 of the paper come out of the architecture."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import billhook
from billhook.cli.app import app
from billhook.errors import ConfigurationError
from billhook.models import mobilenet_v1
from billhook.named_model import build_model
from billhook.storage_table import rows


def run(*arguments: str) -> list[dict[str, float]]:
    result = CliRunner().invoke(app, ["footprint", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: list[dict[str, float]] = json.loads(result.output)["rows"]
    return found


def test_table_5_sparse_mobilenet() -> None:
    found = run("mobilenet_v1")
    assert [row["sparsity"] for row in found] == [0, 0.5, 0.75, 0.9, 0.95]
    printed = [
        tuple(round(row[key], 2) for key in ("paper_mask", "paper_index", "paper_total"))
        for row in found[1:]
    ]
    assert printed == [
        (0.52, 1.06, 9.04),
        (0.52, 0.54, 4.88),
        (0.52, 0.23, 2.07),
        (0.52, 0.13, 1.13),
    ]
    counts = [4_211_113, 2_128_809, 1_087_657, 462_966, 254_735]
    assert [row["nnz"] for row in found] == pytest.approx(counts, abs=5)  # rounded layer by layer
    exact = [round(row["exact_total"] / 1e6, 2) for row in found[2:]]
    assert exact == [4.87, 2.08, 1.15]


def test_table_6_dense_mobilenets() -> None:
    widths = [f"mobilenet_v1(width={width})" for width in (0.75, 0.5, 0.25)]
    found = run(*widths, "--sparsity", "0")
    assert [round(row["paper_total"], 2) for row in found] == [10.28, 5.28, 1.84]
    assert round(found[2]["exact_total"] / 1e6, 2) == 1.86


def test_the_file_columns_are_the_sizes_of_written_files(tmp_path: Path) -> None:
    (row,) = rows(["mobilenet_v1(width=0.25, num_classes=100)"], [0.9])
    model = mobilenet_v1(width=0.25, num_classes=100)
    pruned = billhook.Pruner(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        billhook.OneShot(final_sparsity=0.9, begin_step=0),
        rules={"stem.weight": None, "blocks.*.depthwise.weight": None},
        criterion=billhook.Random(),
    )
    pruned.finalize()
    for parameter in model.parameters():  # norms and biases start at zero, trained ones do not
        if parameter.dim() == 1:
            nn.init.ones_(parameter)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.num_batches_tracked is not None
            nn.init.ones_(module.running_mean)
            module.num_batches_tracked.fill_(3)
    written = {
        encoding: billhook.save(model, tmp_path / "m.bin", encoding=encoding).stored_bytes
        for encoding in ("dense", ("dense", "bitmask"), ("dense", "relative_index"), "auto")
    }
    assert written["dense"] == row.file_dense
    assert written["dense", "bitmask"] == row.file_bitmask
    assert written["dense", "relative_index"] == pytest.approx(row.file_relative_index, rel=0.01)
    assert written["auto"] == pytest.approx(row.file_auto, rel=0.01)


def test_the_table_shows_the_papers_column_labelled() -> None:
    result = CliRunner().invoke(app, ["footprint", "mobilenet_v1"], env={"COLUMNS": "120"})
    for text in ("the paper's arithmetic", "9.04", "4.88", "2.07", "1.13", "expected for random"):
        assert text in result.output


@pytest.mark.parametrize("target", ["nothing", "torch.nn:Nothing", "no.module:f", "f(", "f(1)"])
def test_an_unknown_model_is_an_error(target: str) -> None:
    with pytest.raises(ConfigurationError, match=r"names nothing|is not a name"):
        build_model(target)


def test_a_footprint_prints_as_a_table(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    with torch.no_grad():
        model.weight *= torch.rand(64, 64) < 0.1
    sizes = billhook.footprint(model)
    lines = str(sizes).splitlines()
    (total,) = (line for line in lines if "the file" in line)
    for encoding in ("dense", "bitmask", "blocks", "relative_index", "entropy", "auto"):
        written = billhook.save(model, tmp_path / "m", encoding=encoding).stored_bytes
        assert f"{written:,}" in total
    assert any(line.split()[1:2] == ["bias"] and line.count("256") == 2 for line in lines)
