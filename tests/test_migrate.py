from typing import Any

import pytest
import torch
from torch import nn

import billhook
from billhook.errors import ConfigurationError
from billhook.falling import Alternating
from billhook.migrate import from_hparams, from_sparseml
from billhook.schedule import Cubic, Hold, Polynomial


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))


def test_the_defaults_of_tf_contrib_model_pruning() -> None:
    moved = from_hparams("")
    assert moved.schedule == Polynomial(0.5, 0, 100, frequency=10, exponent=3.0)
    for step in range(0, 110, 10):  # the library's sparsity function
        share = min(1.0, step / 100)
        assert moved.schedule(step) == pytest.approx((0.0 - 0.5) * (1 - share) ** 3 + 0.5)
    assert moved.options == {
        "criterion": billhook.Magnitude(),
        "granularity": billhook.Unstructured(),
        "allocation": billhook.Uniform(),
    }
    assert len(moved.left_out) == 1  # that masks are drawn for ever


def test_all_hyperparameters_of_tf_contrib_model_pruning() -> None:
    text = (
        "name=pruning,begin_pruning_step=100,end_pruning_step=2000,threshold_decay=0.9,"
        "weight_sparsity_map=[0.weight:0.6,4:0.25],pruning_frequency=50,nbins=1024,block_height=4,"
        "block_width=2,block_pooling_function=MAX,initial_sparsity=0.1,target_sparsity=0.75,"
        "sparsity_function_begin_step=100,sparsity_function_end_step=2000,"
        "sparsity_function_exponent=2,use_tpu=False,gradient_decay_rate=0.9,"
        "prune_option=first_order_gradient"
    )
    moved = from_hparams(text)
    assert moved.schedule == Polynomial(
        0.75, 100, 2000, frequency=50, initial_sparsity=0.1, exponent=2.0
    )
    assert moved.granularity == billhook.Block(2, 4, "max")
    assert moved.criterion == billhook.FirstOrder()
    assert moved.rules == {"*0.weight*": 0.6, "*4*": 0.25}
    assert [each.partition("=")[0] for each in moved.left_out] == [
        "threshold_decay",
        "gradient_decay_rate",
    ]
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    billhook.Pruner(model, optimizer, moved.schedule, **moved.options).detach()


@pytest.mark.parametrize(
    ("hparams", "cause"),
    [
        ("target=0.5", "'target' is not a hyperparameter"),
        ("begin_pruning_step=50", "begin_pruning_step 50 is after"),
        ("end_pruning_step=50", "end_pruning_step 50 is before"),
        ("target_sparsity=high", "target_sparsity='high' is not a number"),
        ("target_sparsity", "is not name=value"),
        ("prune_option=random", "prune_option 'random' is unknown"),
        ({"block_dims_map": ["fc:4x4"]}, "block_dims_map .* one Pruner per block size"),
    ],
)
def test_bad_hyperparameters(hparams: Any, cause: str) -> None:
    with pytest.raises(ConfigurationError, match=cause):
        from_hparams(hparams)


RECIPE = """
pruning_modifiers:
  - !GMPruningModifier
    init_sparsity: 0.05
    final_sparsity: 0.8
    start_epoch: 1.0
    end_epoch: 5.0
    update_frequency: 0.5
    params:
      - 0.weight
      - re:2\\..*weight
    leave_enabled: True
    inter_func: cubic
    mask_type: unstructured
    score_type: magnitude
training_modifiers:
  - !EpochRangeModifier
    start_epoch: 0.0
    end_epoch: 8.0
  - !DistillationModifier
    hardness: 1.0
    temperature: 2.0
    distill_output_keys: [logits]
  - !QuantizationModifier
    start_epoch: 6.0
"""


def test_a_recipe_of_sparseml() -> None:
    model = _model()
    moved = from_sparseml(RECIPE, 10, model)
    assert moved.schedule == Cubic(0.8, 10, 50, frequency=5, initial_sparsity=0.05)
    assert moved.rules == {"4.weight": None}
    assert moved.distillation == {"hardness": 1.0, "temperature": 2.0}
    assert [each.partition(":")[0].partition("=")[0] for each in moved.left_out] == [
        "GMPruningModifier.score_type",
        "EpochRangeModifier",
        "QuantizationModifier",
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = billhook.Pruner(model, optimizer, moved.schedule, **moved.options)
    assert set(pruner.masks) == {"0.weight", "2.weight"}


def test_other_modifiers_of_sparseml() -> None:
    model = _model()
    held = "---\nmodifiers:\n  - !ConstantPruningModifier\n    params: __ALL__\n---\n# How to\n"
    assert from_sparseml(held, 10, model).schedule == Hold()
    phases = (
        "modifiers:\n  - !ACDCPruningModifier\n    compression_sparsity: 0.9\n    start_epoch: 2\n"
        "    end_epoch: 10\n    update_frequency: 2\n    params: __ALL_PRUNABLE__\n"
        "    global_sparsity: True\n"
    )
    moved = from_sparseml(phases, 10, model)
    assert moved.schedule == Alternating(0.9, 20, 100, frequency=20)
    assert moved.allocation == billhook.Global()
    two = RECIPE + (
        "more:\n  - !OBSPruningModifier\n    final_sparsity: 0.5\n    start_epoch: 0\n"
        "    end_epoch: 2\n    params: [4.weight]\n"
    )
    with pytest.raises(ConfigurationError, match="differ in criterion"):
        from_sparseml(two, 10, model)
    own = from_sparseml(two.replace("OBS", "GM"), 10, model)
    assert own.rules == {"4.weight": Cubic(0.5, 0, 20, frequency=10, initial_sparsity=0.05)}


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("0.weight", "decoder.weight", "params 'decoder.weight' of the recipe match no parameter"),
        ("final_sparsity: 0.8", "final_sparsity: eval(target)", "final_sparsity is 'eval"),
        ("GMPruningModifier", "MovementPruningModifier", "MovementPruningModifier has no counter"),
        ("unstructured", "filter", "mask_type 'filter' has no counterpart"),
        ("inter_func: cubic", "inter_func: cosine", "inter_func 'cosine' has no counterpart"),
        ("pruning_modifiers:", "pruning_modifiers: [", "the recipe is not YAML"),
    ],
)
def test_what_a_recipe_cannot_bring_is_named(old: str, new: str, cause: str) -> None:
    with pytest.raises(ConfigurationError, match=cause):
        from_sparseml(RECIPE.replace(old, new, 1), 10, _model())
