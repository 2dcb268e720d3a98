"""Parameter counts to the unit, prunable sets, shapes."""

import re

import pytest
import torch
from torch import nn

from billhook.errors import ConfigurationError
from billhook.models import from_torchvision, inception_v3, mobilenet_v1
from billhook.models.inception_v3 import TORCHVISION_MODULES
from billhook.models.small_cnn import small_cnn
from billhook.selection import select_weights


def count(model: nn.Module, *kinds: type[nn.Module]) -> int:
    """Trainable parameters, without those of the given module classes."""
    left_out = {id(p) for m in model.modules() if isinstance(m, kinds) for p in m.parameters()}
    return sum(p.numel() for p in model.parameters() if id(p) not in left_out)


@pytest.mark.parametrize(
    ("width", "without_norm", "with_norm"),
    [
        (0.25, 464_857, 470_329),
        (0.5, 1_321_161, 1_332_105),
        (0.75, 2_569_913, 2_586_329),
        (1.0, 4_211_113, 4_233_001),
    ],
)
def test_mobilenet_has_the_parameters_of_table_2(
    width: float, without_norm: int, with_norm: int
) -> None:
    with torch.device("meta"):
        model = mobilenet_v1(width)
    assert count(model, nn.BatchNorm2d) == without_norm
    assert count(model) == with_norm


def test_mobilenet_parts_and_what_the_paper_prunes() -> None:
    with torch.device("meta"):
        model = mobilenet_v1()
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert sizes["stem.weight"] == 864
    assert sum(n for k, n in sizes.items() if k.endswith("depthwise.weight")) == 44_640
    pointwise = sum(n for k, n in sizes.items() if k.endswith("pointwise.weight"))
    assert pointwise == 3_139_584
    assert sizes["classifier.weight"] + sizes["classifier.bias"] == 1_026_025
    assert pointwise + sizes["classifier.weight"] == 4_164_608  # the paper's prunable weights


@pytest.mark.parametrize("pixels", [32, 57])
def test_mobilenet_takes_small_and_odd_images(pixels: int) -> None:
    assert mobilenet_v1(0.25, 7)(torch.zeros(2, 3, pixels, pixels)).shape == (2, 7)


def test_the_small_network_prunes_what_blocks_of_16_rows_fit() -> None:
    model = small_cnn(48)
    pruned = select_weights(model, model.prune_rules, 0.5).pruned
    shapes = [tuple(weight.parameter.shape) for weight, _ in pruned]
    assert shapes == [(48, 24, 3, 3), (48, 48, 3, 3), (48, 48, 3, 3)]


def test_inception_has_the_parameters_of_table_1() -> None:
    with torch.device("meta"):
        model = inception_v3()
    assert count(model) == 27_145_970
    weights = [p for p in model.parameters() if p.ndim > 1]
    assert sum(p.numel() for p in weights) == 27_125_856


def test_inception_with_scale_has_torchvisions_count() -> None:
    with torch.device("meta"):
        model = inception_v3(num_classes=1000, bn_scale=True)
    assert count(model) == 27_161_264  # torchvision's documentation of Inception_V3_Weights


def test_inception_without_scale_computes_what_a_scale_of_one_does() -> None:
    torch.manual_seed(0)
    plain = inception_v3(5, 0.1)
    scaled = inception_v3(5, 0.1, bn_scale=True)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    images = torch.randn(4, 3, 75, 75)
    for mode in (False, True):
        torch.manual_seed(1)
        ours = plain.train(mode)(images)
        torch.manual_seed(1)
        theirs = scaled.train(mode)(images)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("pixels", [75, 128, 299])
def test_inception_trains_from_75_pixels_up(pixels: int) -> None:
    model = inception_v3(num_classes=3, depth_multiplier=0.05)
    logits, aux = model(torch.randn(2, 3, pixels, pixels))
    assert logits.shape == aux.shape == (2, 3)
    (logits.sum() + aux.sum()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.eval()(torch.randn(2, 3, pixels, pixels)).shape == (2, 3)


def test_inception_refuses_images_below_75_pixels() -> None:
    with pytest.raises(ConfigurationError, match=r"\(74, 299\).*75"):
        inception_v3(3, 0.05)(torch.zeros(1, 3, 74, 299))


def _torchvision_names() -> list[str]:
    """The state_dict keys torchvision's inception_v3 has, from its module names."""
    norm = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    keys = []
    for module in TORCHVISION_MODULES:
        if module.endswith("fc"):
            keys += [f"{module}.weight", f"{module}.bias"]
        else:
            keys += [f"{module}.conv.weight", *(f"{module}.bn.{leaf}" for leaf in norm)]
    return keys


def test_torchvision_names_cover_the_model_one_to_one() -> None:
    with torch.device("meta"):
        model = inception_v3(num_classes=1000, bn_scale=True)
    keys = _torchvision_names()
    renamed = from_torchvision({key: torch.empty(0) for key in keys})
    assert set(renamed) == set(model.state_dict())
    assert len(renamed) == len(keys) == 96 * 6 + 4  # 96 conv units, two classifiers


@pytest.mark.parametrize(
    ("theirs", "shape"),
    [
        ("Conv2d_4a_3x3.conv.weight", (192, 80, 3, 3)),
        ("Mixed_5b.branch5x5_2.conv.weight", (64, 48, 5, 5)),
        ("Mixed_6a.branch3x3dbl_3.conv.weight", (96, 96, 3, 3)),
        ("Mixed_6b.branch7x7_2.conv.weight", (128, 128, 1, 7)),
        ("Mixed_6c.branch7x7dbl_5.conv.weight", (192, 160, 1, 7)),
        ("Mixed_7a.branch7x7x3_4.conv.weight", (192, 192, 3, 3)),
        ("Mixed_7b.branch3x3_2a.conv.weight", (384, 384, 1, 3)),
        ("Mixed_7c.branch3x3dbl_3b.conv.weight", (384, 384, 3, 1)),
        ("AuxLogits.conv1.conv.weight", (768, 128, 5, 5)),
        ("fc.weight", (1000, 2048)),
    ],
)
def test_torchvision_names_reach_weights_of_torchvisions_shapes(
    theirs: str, shape: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        model = inception_v3(num_classes=1000, bn_scale=True)
    (ours,) = from_torchvision({theirs: torch.empty(0)})
    assert model.state_dict()[ours].shape == shape


def test_a_strangers_state_dict_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match=re.escape("'layer1.0.conv1.weight'")):
        from_torchvision({"layer1.0.conv1.weight": torch.empty(0)})


def test_widths_have_to_be_positive() -> None:
    with pytest.raises(ConfigurationError, match="width is 0"):
        mobilenet_v1(width=0)
    with pytest.raises(ConfigurationError, match="depth_multiplier is -1"):
        inception_v3(depth_multiplier=-1)
