"""Models by name, as the command line takes them."""

import sys
import types

import pytest
import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.named_model import build_model


@pytest.fixture(autouse=True)
def _mine(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = types.ModuleType("mine")

    def net(path: str = "", sizes: tuple[int, int] = (1, 2)) -> nn.Module:
        model = nn.Linear(*sizes)
        model.extra_repr = lambda: path  # type: ignore[method-assign]
        return model

    mine.net = net  # type: ignore[attr-defined]
    mine.number = lambda: 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", mine)


@pytest.mark.parametrize("path", ["a:b", "C:/x:y(1)", ":", "(", "url://host:80/"])
def test_arguments_may_contain_anything(path: str) -> None:
    model = build_model(f"mine:net(path={path!r}, sizes=(3, 4))", device="cpu")
    assert model.extra_repr() == path
    assert model.weight.shape == (4, 3)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mine:number", "returns a int: give a function that returns a torch.nn.Module"),
        ("mine:net(size=3)", "fails: .*unexpected keyword argument 'size'"),
        ("mine:net(3)", "is not a name or name"),
        ("mine:net(path=open('x'))", "is not a name or name"),
        ("mine:net(", "is not a name or name"),
        ("mine:nothing", "names nothing"),
        ("nowhere:net", "names nothing"),
        (":", "is not a name"),
        ("", "is not a name"),
    ],
)
def test_anything_else_gets_a_sentence(target: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_model(target)


def test_weights_take_no_memory_unless_asked() -> None:
    assert build_model("mine:net").weight.device == torch.device("meta")
