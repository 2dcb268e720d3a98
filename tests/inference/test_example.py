"""The example in a program's file: a wrong program is an error when it is opened."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import billhook
from billhook.errors import FormatError
from billhook.inference import kernels
from billhook.inference.example import check_example, describe_inputs, example_of, make_inputs

from .test_compile import CNNS, forced, pruned

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


def rewritten(
    path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]
) -> None:
    """The file with its tensors and its text changed, checksums right."""
    tensors = billhook.load(path)
    text = json.loads(bytes(tensors["program"].numpy()))
    change(tensors, text)
    tensors["program"] = torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8)
    billhook.save(tensors, path, gzip=False)


def other_weights(tensors: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    name = next(name for name in tensors if name.endswith((".value", ".weight")))
    tensors[name] = tensors[name].roll(1)


def network(path: Path) -> Callable[[], billhook.inference.compiled.CompiledModel]:
    make, shape = CNNS["residual"]
    billhook.save(forced(pruned(make(), 0.5), torch.randn(1, *shape)), path)
    return lambda: billhook.load_compiled(path)


class Words(nn.Module):
    """Two inputs, one of integers; a tuple of results."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(30, 16), nn.Linear(16, 8)

    def forward(
        self, words: torch.Tensor, scale: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fc(self.embedding(words)) * scale, words


def modules(path: Path) -> Callable[[], billhook.inference.compiled.CompiledModel]:
    plan = {"version": 1, "mode": "modules", "isa": "portable"}
    inputs = torch.tensor([[3, 29, 7]]), torch.rand(1, 3, 1)
    layers = {"fc": {"kernel": "sparse"}}
    fast = billhook.compile(Words().eval(), inputs, plan={**plan, "layers": layers})
    billhook.save(fast, path)
    return lambda: billhook.load_compiled(path, Words())


@pytest.mark.parametrize("make", [network, modules])
def test_a_wrong_program_is_an_error_and_a_right_one_is_not(
    make: Callable[[Path], Callable[[], Any]], tmp_path: Path
) -> None:
    path = tmp_path / "p"
    load = make(path)
    again = load()
    billhook.save(again, tmp_path / "again")  # keeps the example
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    rewritten(path, other_weights)
    with pytest.raises(FormatError, match="other outputs on the example"):
        load()
    rewritten(path, lambda _, text: text.pop("example"))  # as older releases wrote it
    load()


@pytest.mark.parametrize(
    "example",
    [
        3,
        {},
        {"inputs": []},
        {"inputs": [], "outputs": [1.0]},
        {"inputs": [{"shape": [1, 3, 24, 24], "dtype": "F32"}], "outputs": []},
        {"inputs": [{"shape": [1, 3, 24, 24], "dtype": "F32"}], "outputs": ["a"]},
        {"inputs": [{"shape": [1, 3, 24, 24], "dtype": "F32"}], "outputs": [1.0] * 1000},
        {"inputs": [{"shape": [1, 3, 24, 24], "dtype": "F99"}], "outputs": [1.0]},
        {"inputs": [{"shape": [-1, 3, 24, 24], "dtype": "F32"}], "outputs": [1.0]},
        {"inputs": [{"shape": [2**40, 3, 24, 24], "dtype": "F32"}], "outputs": [1.0]},
        {"inputs": [{"shape": [1] * 100, "dtype": "F32"}], "outputs": [1.0]},
        {
            "inputs": [{"shape": [1, 3, 24, 24], "dtype": "I64", "low": 3, "high": 2}],
            "outputs": [1],
        },
        {"inputs": [{"shape": [1, 3, 24, 24], "dtype": "I64"}], "outputs": [1.0]},
    ],
)
def test_examples_that_are_none_are_refused(example: Any, tmp_path: Path) -> None:
    load = network(tmp_path / "p")
    rewritten(tmp_path / "p", lambda _, text: text.update(example=example))
    with pytest.raises(FormatError):
        load()


def test_inputs_are_of_the_kind_that_was_given() -> None:
    given = (torch.rand(2, 3), torch.tensor([[5, 9]]), torch.tensor([True]), torch.zeros(0, 2))
    described = describe_inputs(given)
    assert described is not None
    for made, x in zip(make_inputs(described), given, strict=True):
        assert (made.shape, made.dtype) == (x.shape, x.dtype)
    made = make_inputs([{"shape": [1000], "dtype": "I64", "low": 5, "high": 9}])[0]
    assert set(made.tolist()) == {5, 6, 7, 8, 9}
    assert describe_inputs(["text"]) is None
    assert describe_inputs([torch.zeros(2**20 + 1)]) is None


def test_a_model_that_does_not_run_on_made_inputs_keeps_no_example() -> None:
    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if float(x.sum()) != 3:
                raise RuntimeError("not these")
            return x

    assert example_of(Picky(), describe_inputs([torch.ones(3)])) is None
    assert example_of(nn.Identity(), None) is None


def test_outputs_that_are_not_finite_are_compared() -> None:
    example = example_of(nn.ReLU(), [{"shape": [8], "dtype": "F32"}])
    assert example is not None
    check_example(nn.ReLU(), example)
    with pytest.raises(FormatError):
        check_example(nn.LogSigmoid(), example)
    infinite = {**example, "outputs": [float("inf"), *example["outputs"][1:]]}
    with pytest.raises(FormatError):
        check_example(nn.ReLU(), infinite)
