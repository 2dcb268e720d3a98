"""The benchmark: what it prints, whatever the times are."""

from pathlib import Path

import pytest
import torch

import billhook
from billhook.bench.measure import Limits, Result, bench, layer_table, measure_limits
from billhook.cli.bodies.bench import run
from billhook.errors import ConfigurationError
from billhook.inference.report import LayerReport
from billhook.models import mobilenet_v1

SMALL = "mobilenet_v1(width=0.25, num_classes=10)"


def test_every_form_has_its_time_and_every_layer_its_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mobilenet_v1(width=0.25, num_classes=10)
    billhook.save(model, tmp_path / "model.billhook.safetensors")
    weights = tmp_path / "model.billhook.safetensors"
    text = "\n".join(map(str, run(SMALL, "1,3,32,32", weights=weights, rounds=1, peers=("eager",))))
    assert all(word in text for word in ("billhook", "eager", "stem", "blocks.12.pointwise"))


def test_a_compiled_program_is_measured_alone(tmp_path: Path) -> None:
    plan = {
        "version": 1,
        "mode": "network",
        "isa": "portable",
        "layers": {"0": {"kernel": "spmm"}, "2": {"kernel": "dense"}},
    }
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 1)
    ).eval()
    path = tmp_path / "program.billhook.safetensors"
    billhook.save(billhook.compile(model, torch.rand(1, 3, 9, 9), plan=plan), path)
    whole, layers = map(str, run(str(path), rounds=1))
    assert "billhook" in whole
    assert [line.split()[0] for line in layers.splitlines()[2:]] == ["0", "2"]


def test_what_is_gained_is_summed_up() -> None:
    def layer(name: str, dense: float, sparse: float, chosen: str) -> LayerReport:
        return LayerReport(name, "conv", (4, 4, 1, 1), 0.5, 9, dense, sparse, chosen, "")

    layers = [layer("a", 4.0, 1.0, "spmm"), layer("b", 3.0, 1.5, "spmm"), layer("c", 1, 2, "dense")]
    last = layer_table(layers, Limits(100, 50)).splitlines()[-1]
    assert last == "2 layers run sparse: 7.000 ms dense, 2.500 ms so; 1 stay dense: 1.000 ms"


def test_a_model_of_tokens() -> None:
    peers = ("eager", "billhook int8", "onnxruntime int8")
    parts = run(
        "ptb_lstm(hidden=16, vocab=30)", "5,2", sparsity=0.5, vocabulary=30, rounds=1, peers=peers
    )
    text = "\n".join(map(str, parts))
    assert "eager" in text
    assert "billhook int8" in text
    assert "left out: " in text  # not installed, or no static ranges of recurrent layers


def test_ratios_are_of_the_medians_and_of_the_fastest_rounds() -> None:
    model = torch.nn.Linear(4, 4).eval()
    compiled = bench("tiny", model, (torch.ones(1, 4),), peers=[], rounds=1).compiled
    times = {"billhook": [1.0, 2.0, 9.0], "eager": [3.0, 8.0, 8.0]}
    assert Result("tiny", 1, times, compiled, {}).ratios("eager") == (4.0, 3.0)


def test_limits_grow_with_work() -> None:
    limits = measure_limits()
    assert 0 < limits.milliseconds(10**6, 10**3) <= limits.milliseconds(10**7, 10**3)


@pytest.mark.parametrize(
    ("shape", "sparsity", "cause"),
    [("1,x", 0.5, "'1,x'"), ("1,3,32,32", 1.5, "1.5"), ("1,3,32,32", None, "either a file")],
)
def test_bad_arguments_are_errors(shape: str, sparsity: float | None, cause: str) -> None:
    with pytest.raises(ConfigurationError, match=cause):
        list(run(SMALL, shape, sparsity=sparsity))


def test_weights_that_do_not_fit_and_inputs_that_fail_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "model.billhook.safetensors"
    billhook.save(mobilenet_v1(width=0.25, num_classes=9), path)
    with pytest.raises(ConfigurationError, match=r"'classifier.weight' is \[9, 256\] in the file"):
        list(run(SMALL, "1,3,32,32", weights=path))
    billhook.save({"weight": torch.eye(3)}, path)
    with pytest.raises(ConfigurationError, match="'stem.weight' is only in the model"):
        list(run(SMALL, "1,3,32,32", weights=path))
    with pytest.raises(ConfigurationError, match="holds weights, not a compiled program"):
        list(run(str(path)))
    with pytest.raises(ConfigurationError, match=r"fails on an input of \[1, 4, 32, 32\]"):
        list(run(SMALL, "1,4,32,32", sparsity=0.5))


def test_a_compiled_model_of_replaced_layers_is_measured_with_its_model(tmp_path: Path) -> None:
    path, target = (
        tmp_path / "gru.billhook.safetensors",
        "torch.nn:GRU(input_size=8, hidden_size=8)",
    )
    plan = {"version": 1, "mode": "modules", "isa": "portable"}
    gru = torch.nn.GRU(8, 8).eval()
    layers = {"": {"kernel": "sparse"}}
    compiled = billhook.compile(gru, torch.rand(5, 1, 8), plan={**plan, "layers": layers})
    billhook.save(compiled, path)
    whole, table = map(str, run(target, "5,1,8", weights=path, rounds=1))
    assert "billhook" in whole
    assert "sparse" in table.splitlines()[2]
    with pytest.raises(ConfigurationError, match="replaced one by one"):
        list(run(str(path), "5,1,8"))
    with pytest.raises(ConfigurationError, match=r"fails on an input of \[5, 1, 7\]"):
        list(run(target, "5,1,7", weights=path))
