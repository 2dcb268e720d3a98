from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from billhook.errors import ConfigurationError
from billhook.selection import Rules, named_weights, select_weights


class Everything(nn.Module):
    """One of each module with a weight matrix, some without, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.bilinear = nn.Bilinear(2, 2, 2)
        self.conv = nn.Sequential(
            nn.Conv1d(2, 2, 3), nn.BatchNorm1d(2), nn.ConvTranspose2d(2, 2, 3)
        )
        self.embedding = nn.Embedding(5, 4)
        self.bag = nn.EmbeddingBag(5, 4)
        self.lstm = nn.LSTM(4, 3, num_layers=2, bidirectional=True, proj_size=2)
        self.gru = nn.GRU(4, 3)
        self.rnn = nn.RNN(4, 3)
        self.cell = nn.LSTMCell(4, 3)
        self.attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True)
        self.joint_attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.own = nn.Parameter(torch.ones(3, 3))


def _targets(model: nn.Module, rules: Rules | None = None) -> dict[str, float]:
    return {weight.name: target for weight, target in select_weights(model, rules, 0.9).pruned}


def test_default_is_every_weight_matrix_and_nothing_else() -> None:
    lstm = [
        f"lstm.weight_{part}_l{layer}{direction}"
        for layer in (0, 1)
        for direction in ("", "_reverse")
        for part in ("ih", "hh", "hr")
    ]
    attention = [f"attention.{part}_proj_weight" for part in ("q", "k", "v")]
    assert set(_targets(Everything())) == {
        *("linear.weight", "bilinear.weight", "conv.0.weight", "conv.2.weight"),
        *("embedding.weight", "bag.weight", *lstm),
        *("gru.weight_ih_l0", "gru.weight_hh_l0", "rnn.weight_ih_l0", "rnn.weight_hh_l0"),
        *("cell.weight_ih", "cell.weight_hh", *attention, "attention.out_proj.weight"),
        *("joint_attention.in_proj_weight", "joint_attention.out_proj.weight"),
    }


def test_what_stays_dense_is_said_with_its_reason() -> None:
    model = Everything()
    model.linear.weight.requires_grad_(False)
    text = str(select_weights(model, {"embedding": None}, 0.9))
    assert "billhook prunes" in text
    for reason, name in [
        ("bias", "linear.bias"),
        ("norm", "conv.1.weight"),
        ("other", "own"),
        ("frozen", "linear.weight"),
        ("by rule", "embedding.weight"),
    ]:
        line = next(line for line in text.splitlines() if f"({reason}," in line)
        assert name in line


def test_rules_by_glob_module_type_and_full_name() -> None:
    model = Everything()
    rules: Rules = {
        nn.Linear: 0.5,
        "conv.*": 0.6,
        "conv.2": None,
        "attention.out_proj.weight": 0.7,
        "own": 0.8,
        "linear.bias": 0.4,
    }
    targets = _targets(model, rules)
    assert targets["linear.weight"] == 0.5
    assert targets["joint_attention.out_proj.weight"] == 0.5  # a subclass of Linear
    assert targets["attention.out_proj.weight"] == 0.7
    assert targets["conv.0.weight"] == 0.6
    assert "conv.2.weight" not in targets
    assert targets["own"] == 0.8
    assert targets["linear.bias"] == 0.4
    assert targets["embedding.weight"] == 0.9


@pytest.mark.parametrize("rule", ["0.weight", "0", "0*", nn.Linear])
def test_frozen_weights_are_pruned_when_a_rule_says_so(rule: str | type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(4, 4)).requires_grad_(False)
    assert _targets(model, {rule: 0.5}) == {"0.weight": 0.5}


class Conv1D(nn.Module):
    """As transformers' linear layer of shape (in, out)."""

    __module__ = "transformers.pytorch_utils"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 8))
        self.bias = nn.Parameter(torch.ones(8))


class Experts(nn.Module):
    """A module that torch does not know, with matrices of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.ones(2, 4, 8))
        self.down = nn.Parameter(torch.ones(2, 8, 4))
        self.up_bias = nn.Parameter(torch.ones(2, 8))
        self.scale = nn.Parameter(torch.ones(4))
        self.norm = nn.LayerNorm((2, 4))


def test_transformers_linear_layers_are_weight_matrices() -> None:
    model = nn.Sequential(Conv1D(), nn.Linear(8, 2))
    assert set(_targets(model)) == {"0.weight", "1.weight"}
    for rule in ("0", "0.*", Conv1D):
        assert _targets(model, {rule: 0.5}) == {"0.weight": 0.5, "1.weight": 0.9}


def test_matrices_of_unknown_modules_are_reached_by_name_and_by_class() -> None:
    model = nn.Sequential(Experts(), nn.Linear(8, 2))
    assert set(_targets(model)) == {"1.weight"}
    for named in ("0", Experts):
        assert set(_targets(model, {named: 0.5})) == {"0.up", "0.down", "1.weight"}
    for everything in ("*", nn.Module):  # names nothing
        assert set(_targets(model, {everything: 0.5})) == {"1.weight"}


Reparametrise = Callable[[nn.Linear], nn.Module]


@pytest.mark.parametrize(
    ("wrap", "kind", "behind"),
    [
        (parametrizations.weight_norm, "weight_norm", "parametrizations.weight.original1"),
        (parametrizations.spectral_norm, "spectral_norm", "parametrizations.weight.original"),
        (parametrizations.orthogonal, "orthogonal", "parametrizations.weight.original"),
        (nn.utils.weight_norm, "weight_norm", "weight_v"),
        (nn.utils.spectral_norm, "spectral_norm", "weight_orig"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 3), "l1_unstructured", "weight_orig"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_weights_computed_from_others_are_named_with_what_computes_them(
    wrap: Reparametrise, kind: str, behind: str
) -> None:
    model = nn.Sequential(wrap(nn.Linear(8, 4)), nn.Linear(4, 2))
    selection = select_weights(model, None, 0.9)
    assert f"left dense (under {kind}, " in str(selection)
    assert f"0.{behind}" in str(selection)
    for rule in ("0", "0.*"):
        with pytest.raises(ConfigurationError, match=f"under {kind}, .* behind it, '0.{behind}'"):
            select_weights(model, {rule: 0.9}, 0.9)
    with pytest.raises(
        ConfigurationError, match=rf"rules=\{{\"0.{behind}\": 0.9\}} .*under {kind}"
    ):
        select_weights(model[:1], None, 0.9)
    assert _targets(model, {f"0.{behind}": 0.5})[f"0.{behind}"] == 0.5


def test_tied_weights_are_one_tensor_with_both_names() -> None:
    model = nn.ModuleDict({"a": nn.Embedding(6, 4), "b": nn.Linear(4, 6, bias=False)})
    model["b"].weight = model["a"].weight
    (weight,) = named_weights(model)
    assert weight.names == ("a.weight", "b.weight")
    assert _targets(model, {"b.weight": 0.5}) == {"a.weight": 0.5}
    with pytest.raises(ConfigurationError, match="equal rank"):
        _targets(model, {"a": 0.5, "b": 0.6})


class GradSampleModule(nn.Module):
    """As opacus's."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module


def test_names_are_canonical_under_wrappers() -> None:
    inner = nn.ModuleDict({"module": nn.Linear(2, 2)})  # a user's own "module" is not a wrapper
    names = [weight.name for weight in named_weights(inner)]
    assert names == ["module.weight", "module.bias"]
    compiled = torch.compile(inner)
    assert isinstance(compiled, nn.Module)
    parallel, average = nn.DataParallel(inner), torch.optim.swa_utils.AveragedModel(inner)
    for wrapped in (compiled, parallel, average, GradSampleModule(inner)):
        assert [weight.name for weight in named_weights(wrapped)] == names


@pytest.mark.parametrize(
    ("rules", "cause"),
    [
        ({"conv.*": 0.5, "*.weight": 0.6}, r"rules .* match 'conv.0.weight' with equal rank"),
        ({nn.Linear: 0.5, nn.Module: 0.6}, "equal rank"),
        ({"nothing.*": 0.5}, "'nothing.*' matches nothing"),
        ({"conv": 0.5}, r"write 'conv.\*'"),
        ({"norm.*": 0.5}, "name it in full"),
        ({nn.Conv3d: 0.5}, "'Conv3d' matches nothing"),
        ({"linear.weight": 1.0}, r"'linear.weight' sets sparsity 1.0"),
        ({"*": None}, r"nothing is selected .* of Everything"),
    ],
)
def test_bad_rules_name_cause_and_fix(rules: Rules, cause: str) -> None:
    with pytest.raises(ConfigurationError, match=cause):
        select_weights(Everything(), rules, 0.9)


@pytest.mark.parametrize(
    ("rules", "cause"),
    [
        ({"0": "0.9"}, "rule '0' has the value '0.9'"),
        ({"0": False}, "rule '0' has the value False"),
        ({"0": torch.tensor(0.9)}, r"rule '0' has the value tensor\(0.9000\)"),
        ({"0": float("nan")}, "sparsity nan, which is outside"),
        ({3: 0.9}, "3 is not a key of rules"),
        ({int: 0.9}, "<class 'int'> is not a key of rules"),
    ],
)
def test_rules_of_wrong_types_are_refused(rules: Any, cause: str) -> None:
    with pytest.raises(ConfigurationError, match=cause):
        select_weights(nn.Sequential(nn.Linear(4, 4)), rules, 0.5)
