"""GRU, LSTM with projections, attention and Conv1d against torch, and which layers stay dense."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils import _pytree as pytree

from billhook.errors import CompileError, ConfigurationError
from billhook.inference import Choice, compile, kernels
from billhook.inference.layers.kinds import candidates, dense_only, make_sparse, obstacle
from billhook.inference.layers.race import choose_modules
from billhook.models.lstm import OneBiasLSTM

from .strategies import assert_close
from .test_compile import forced, pruned, relative_error
from .test_linear_kernels import ISAS, torch_threads

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no native kernels")


def compare(dense: nn.Module, choice: Choice, *args: Any, **kwargs: Any) -> None:
    """The sparse form of a layer gives what the dense one gives, in every instruction set."""
    with torch.no_grad():
        wanted = pytree.tree_leaves(dense(*args, **kwargs))
    for isa in ISAS:
        for threads in (1, 2):
            with torch_threads(threads):
                given_ = pytree.tree_leaves(make_sparse(dense, choice, isa)(*args, **kwargs))
            for got, expected in zip(given_, wanted, strict=True):
                if torch.is_tensor(expected):
                    assert_close(got, expected)
                else:
                    assert got == expected


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_gru_and_projected_lstm_equal_torch(data: st.DataObject) -> None:
    draw = data.draw
    kind = draw(st.sampled_from(["gru", "projected"]))
    inputs, units = draw(st.integers(1, 20)), draw(st.integers(2, 20))
    layers, both, first = draw(st.integers(1, 3)), draw(st.booleans()), draw(st.booleans())
    options: dict[str, Any] = {"bidirectional": both, "batch_first": first}
    options |= {"bias": draw(st.booleans()), "num_layers": layers}
    project = draw(st.integers(1, units - 1))
    if kind == "projected":
        options["proj_size"] = project
    torch.manual_seed(draw(st.integers(0, 99)))
    make = nn.GRU if kind == "gru" else nn.LSTM
    dense = pruned(make(inputs, units, **options), draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])))
    time, batch = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 9, 66]))
    padded = torch.randn((batch, time, inputs) if first else (time, batch, inputs))
    x: torch.Tensor | PackedSequence = padded
    if draw(st.booleans()):
        lengths = torch.from_numpy(np.random.default_rng(0).integers(1, time + 1, batch))
        x = pack_padded_sequence(padded, lengths, batch_first=first, enforce_sorted=False)
    state: Any = None
    if draw(st.booleans()):
        sizes = [units] if kind == "gru" else [project, units]
        parts = [torch.randn(layers * (1 + both), batch, size) for size in sizes]
        state = parts[0] if kind == "gru" else tuple(parts)
    compare(dense, Choice("sparse"), x, state)


def test_a_gru_without_a_batch() -> None:
    compare(pruned(nn.GRU(3, 4, 2)), Choice("sparse"), torch.randn(5, 3), torch.randn(2, 4))


def test_a_sample_alone_is_the_sample_among_others() -> None:
    """One native call for all steps, and one for each step."""
    for both in (False, True):
        dense = pruned(nn.GRU(7, 70, 2, bidirectional=both), 0.8)
        x, state = torch.randn(9, 3, 7), torch.randn(2 * (1 + both), 3, 70)
        fast = make_sparse(dense, Choice("sparse"), ISAS[-1])
        together, ends = fast(x, state)
        for sample in range(3):
            own = slice(sample, sample + 1)
            alone, end = fast(x[:, own], state[:, own].contiguous())
            torch.testing.assert_close(alone, together[:, own], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(end, ends[:, own], rtol=1e-4, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_attention_equals_torch(data: st.DataObject) -> None:
    draw = data.draw
    heads, width = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    first, bias = draw(st.booleans()), draw(st.booleans())
    dense = pruned(nn.MultiheadAttention(heads * width, heads, bias=bias, batch_first=first), 0.5)
    batch, targets, sources = draw(st.integers(1, 3)), draw(st.integers(1, 5)), 4
    batched = draw(st.booleans())

    def sequence(length: int) -> torch.Tensor:
        x = torch.randn((batch, length, heads * width))
        return (x if first else x.transpose(0, 1)) if batched else x[0]

    query, key = sequence(targets), sequence(sources)
    options: dict[str, Any] = {"need_weights": draw(st.booleans())}
    options["average_attn_weights"] = draw(st.booleans())
    boolean = draw(st.booleans())

    def mask(*shape: int) -> torch.Tensor:
        hidden = torch.rand(shape) < 0.3
        hidden[..., 0] = False  # a row with nothing to attend to is NaN
        return hidden if boolean else torch.where(hidden, -torch.inf, torch.randn(shape))

    kind = draw(st.sampled_from(["none", "flat", "heads"]))
    copies = (batch if batched else 1) * heads
    if kind != "none":
        options["attn_mask"] = mask(*([copies] if kind == "heads" else []), targets, sources)
    if draw(st.booleans()):
        options["key_padding_mask"] = mask(*([batch] if batched else []), sources)
    compare(dense, Choice("sparse"), query, key, torch.flip(key, [0]), **options)


def test_a_causal_hint_gives_what_its_mask_gives() -> None:
    dense = pruned(nn.MultiheadAttention(8, 2, batch_first=True), 0.5)
    x, mask = torch.randn(2, 5, 8), nn.Transformer.generate_square_subsequent_mask(5)
    for need in (False, True):
        options = {"attn_mask": mask, "is_causal": True, "need_weights": need}
        compare(dense, Choice("sparse"), x, x, x, **options)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_conv1d_equals_torch(data: st.DataObject) -> None:
    draw, small = data.draw, st.integers(1, 3)
    groups, kernel, stride, dilation = (draw(small) for _ in range(4))
    same = stride == 1 and draw(st.booleans())
    padding: Any = "same" if same else draw(st.integers(0, 2))
    length = draw(st.integers(1, 30))
    assume(length + (0 if same else 2 * padding) > dilation * (kernel - 1))
    channels, filters = groups * draw(small), groups * draw(st.integers(1, 9))
    dense = pruned(
        nn.Conv1d(
            channels, filters, kernel, stride, padding, dilation, groups, draw(st.booleans())
        ),
        0.5,
    )
    batch = draw(st.sampled_from([None, 1, 3]))
    shape = (channels, length) if batch is None else (batch, channels, length)
    names = ["spmm", "spmm_packed"] if groups == 1 else ["spmm"]
    compare(dense, Choice(draw(st.sampled_from(names))), torch.randn(shape))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_conv2d_with_a_padding_in_words() -> None:
    for padding in ("same", "valid"):
        conv = nn.Conv2d(3, 4, (2, 5), padding=padding, dilation=(1, 2))
        compare(pruned(conv, 0.5), Choice("spmm"), torch.randn(2, 3, 9, 12))


class Speech(nn.Module):
    """A Conv1d, a GRU, attention with masks, and layers that stay dense."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(12, 16, 3, padding=1)
        self.gru = OneBiasLSTM(16, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=False
        )
        self.up = nn.ConvTranspose1d(16, 8, 2)
        self.out = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        y = self.gru(self.conv(x).transpose(1, 2))[0]
        y = self.encoder(y, src_key_padding_mask=padding)
        return self.out(self.up(y.transpose(1, 2)).transpose(1, 2))  # type: ignore[no-any-return]


def test_a_model_of_all_kinds_keeps_its_outputs() -> None:
    model = pruned(Speech(), 0.5)
    fast = forced(model, (torch.randn(1, 12, 9), torch.zeros(1, 9, dtype=torch.bool)))
    assert len(fast.plan.layers) == 2 + 2 * 3 + 1
    for batch, length in ((1, 9), (3, 5)):
        x, padding = torch.randn(batch, 12, length), torch.rand(batch, length) < 0.3
        padding[:, 0] = False
        with torch.no_grad():
            wanted = model(x, padding)
        assert relative_error(fast(x, padding), wanted) <= 1e-5


def test_the_report_names_every_layer_that_stays_dense_and_why() -> None:
    model = pruned(Speech(), 0.5)
    padding = torch.zeros(1, 9, dtype=torch.bool)
    inputs = (torch.randn(1, 12, 9), padding)
    with torch.no_grad():
        _, layers = choose_modules(model, lambda m: m(*inputs), kernels.isa())
    found = {layer.name: layer for layer in layers}
    assert {"conv", "gru", "encoder.layers.1.self_attn", "up", "out"} <= set(found)
    assert found["up"].chosen == "dense"
    assert found["up"].reason == "ConvTranspose1d has no sparse form"


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


LEFT_DENSE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "subclass": (lambda: Doubled(4, 4), "Doubled runs otherwise than Linear"),
    "embedding": (lambda: nn.Embedding(4, 4), "rows are looked up"),
    "bilinear": (lambda: nn.Bilinear(4, 4, 4), "Bilinear has no sparse form"),
    "reflect": (lambda: nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect"), "reflect"),
    "key width": (lambda: nn.MultiheadAttention(4, 2, kdim=3), "their own width"),
    "zero attention": (lambda: nn.MultiheadAttention(4, 2, add_zero_attn=True), "add_zero_attn"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_that_makes_nested_tensors_is_left_alone_and_the_report_says_so() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = pruned(nn.TransformerEncoder(layer, 1), 0.5)
    padding = torch.tensor([[False, False, True]])
    x = torch.randn(1, 3, 16)
    report = compile(model, (x, None, padding)).report()
    assert all("enable_nested_tensor=False" in layer.reason for layer in report.layers)
    fast = forced(model, x)
    with pytest.raises(ConfigurationError, match="enable_nested_tensor=False"):
        fast(x, src_key_padding_mask=padding)


@pytest.mark.parametrize("name", LEFT_DENSE)
def test_a_layer_without_a_sparse_form_says_why(name: str) -> None:
    make, why = LEFT_DENSE[name]
    model = nn.Sequential(make()).eval()
    reasons = [obstacle(module) or "" for _, module in candidates(model)]
    reasons += [reason for _, _, reason in dense_only(model)]
    assert len(reasons) == 1
    assert why in reasons[0]


def test_a_layer_with_hooks_stays_dense_and_one_with_pruning_masks_does_not() -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 40)).eval()
    model[0].register_forward_hook(lambda _module, _args, y: y + 1)
    prune.random_unstructured(model[1], "weight", 0.5)
    parametrizations.weight_norm(model[2]).eval()
    assert [obstacle(module) is None for module in model] == [False, True, True]
    x = torch.randn(3, 40)
    plan = {"version": 1, "mode": "modules", "isa": "portable"}
    layers = {"1": {"kernel": "sparse"}, "2": {"kernel": "sparse"}}
    with torch.no_grad():
        wanted = model(x)
    assert relative_error(compile(model, x, plan={**plan, "layers": layers})(x), wanted) < 1e-5
    with pytest.raises(CompileError, match="forward hooks"):
        compile(model, x, plan={**plan, "layers": {"0": {"kernel": "sparse"}}})


@pytest.mark.parametrize(
    ("module", "kernel"),
    [
        (nn.Linear(4, 4), "spmm"),
        (nn.Conv2d(4, 4, 1), "fused"),
        (nn.Conv2d(4, 4, 1), "sparse"),
        (nn.Conv2d(4, 4, 1), "depthwise"),
        (nn.Conv2d(4, 4, 1, groups=2), "spmm_packed"),
    ],
)
def test_a_plan_whose_kernel_cannot_run_the_layer_is_an_error(
    module: nn.Module, kernel: str
) -> None:
    x = torch.randn((1, 4, 4, 4) if isinstance(module, nn.Conv2d) else (1, 4))
    plan = {"version": 1, "mode": "modules", "isa": "portable"}
    with pytest.raises(CompileError, match=f"makes '' sparse, but '{kernel}'"):
        compile(module.eval(), x, plan={**plan, "layers": {"": {"kernel": kernel}}})


def test_bad_inputs_of_attention_are_errors() -> None:
    attention = make_sparse(nn.MultiheadAttention(8, 2).eval(), Choice("sparse"), 0)
    x = torch.zeros(5, 1, 8)
    with pytest.raises(ConfigurationError, match="8 features"):
        attention(torch.zeros(5, 1, 7), x, x)
    with pytest.raises(ConfigurationError, match=r"key is \(5, 1, 8\) and value \(4, 1, 8\)"):
        attention(x, x, x[:4])
    with pytest.raises(ConfigurationError, match=r"attn_mask is \(4, 5\)"):
        attention(x, x, x, attn_mask=torch.zeros(4, 5))
    with pytest.raises(ConfigurationError, match=r"key_padding_mask is \(5, 1\)"):
        attention(x, x, x, key_padding_mask=torch.zeros(5, 1, dtype=torch.bool))
    with pytest.raises(ConfigurationError, match="int64"):
        attention(x, x, x, attn_mask=torch.zeros(5, 5, dtype=torch.long))
    with pytest.raises(ConfigurationError, match="hint about attn_mask"):
        attention(x, x, x, is_causal=True)
    with pytest.raises(ConfigurationError, match="all batches"):
        attention(x, x[0], x[0])
