import typing
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

import billhook
from billhook.study.grid import plan
from billhook.study.run.trial import run_trial
from billhook.study.spec import Scheme, load_study
from billhook.tasks.recipe import Pruning
from billhook.training.parts import CRITERIA, REGROWTH, SCHEMES, granularity_of

WINDOW: dict[str, object] = {"begin": 0.1, "end": 0.8, "updates": 10}


def test_a_recipe_names_the_parts_of_a_pruner() -> None:
    words = {
        "unstructured": billhook.Unstructured(),
        "rows": billhook.Rows(),
        "per-row": billhook.PerRow(),
        "block-8x1": billhook.Block(8, 1),
        "nm-2x4": billhook.NM(2, 4),
    }
    for word, part in words.items():
        assert (
            granularity_of(Pruning.model_validate(WINDOW | {"granularity": word}).granularity)
            == part
        )
    for name, choices in (("criterion", CRITERIA), ("regrow", REGROWTH)):
        assert set(typing.get_args(Pruning.model_fields[name].annotation)) == set(choices)
        for word in choices:
            assert getattr(Pruning.model_validate(WINDOW | {name: word}), name) == word
    with pytest.raises(ValidationError, match="granularity"):
        Pruning.model_validate(WINDOW | {"granularity": "block-0x1"})


def test_recipes_from_before_these_words_keep_their_identity() -> None:
    assert set(Pruning.model_validate(WINDOW).model_dump(mode="json")) == {
        "begin",
        "end",
        "updates",
        "frequency",
        "curve",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"granularity": "block-2x4"},
        {"curve": "alternating", "updates": 4},
        {"regrow": "gradient"},
        {"curve": "constant", "begin": 0.0, "regrow": "gradient"},
        {"criterion": "fisher"},
        {"curve": "cyclic", "updates": 6},
        {"criterion": "wanda", "granularity": "per-row"},
    ],
    ids=str,
)
def test_a_trial_of_every_kind_has_the_planned_bytes(
    change: dict[str, object], tmp_path: Path
) -> None:
    study = load_study("digits").model_copy(
        update={
            "recipe": load_study("digits").recipe.changed(training={"steps": 60}),
            "seeds": (0, 1),
            "small_widths": (),
            "sparsities": (0.9,),
            "learning_rates": (0.01,),
            "variants": (change,),
        }
    )
    trial = next(t for t in plan(study).trials if t.variant and t.seed == 0)
    outcome = run_trial(trial, tmp_path, lambda progress: None)
    assert outcome.nonzero == trial.expected_nonzero


def test_a_study_knows_every_scheme() -> None:
    assert set(SCHEMES) == set(typing.get_args(Scheme))


@pytest.mark.parametrize("scheme", ["lamp", "erdos-renyi", "erdos-renyi-kernel"])
def test_schemes_that_share_a_budget_keep_as_many_weights(scheme: str, tmp_path: Path) -> None:
    base = load_study("digits")
    study = base.model_copy(
        update={
            "recipe": base.recipe.changed(training={"steps": 60}),
            "seeds": (0, 1),
            "small_widths": (),
            "sparsities": (0.9,),
            "learning_rates": (0.01,),
            "schemes": ("standard", scheme),
        }
    )
    plain, shared = (
        next(t for t in plan(study).trials if t.scheme == each and t.seed == 0)
        for each in ("standard", scheme)
    )
    assert plain.expected_nonzero == shared.expected_nonzero
    assert run_trial(shared, tmp_path, lambda progress: None).nonzero == shared.expected_nonzero


def test_variants_of_a_study_have_the_bytes_of_their_pattern() -> None:
    study = load_study("digits").model_copy(
        update={
            "seeds": (0, 1),
            "small_widths": (),
            "sparsities": (0.9,),
            "learning_rates": (0.01,),
            "variants": ({"granularity": "block-3x5"}, {"criterion": "fisher"}),
        }
    )
    trials = {t.variant: t for t in plan(study).trials if t.arm == "large-sparse" and t.seed == 0}
    blocks = billhook.Block(3, 5)
    for trial in trials.values():
        part = blocks if "block" in trial.variant else billhook.Unstructured()
        shapes = [torch.Size(each) for each in ((64, 64), (64, 64), (10, 64))]
        weights = sum(part.kept(shape, 0.9) for shape in shapes)
        assert trial.expected_nonzero - weights == 64 + 64 + 10  # the biases
    assert len({trial.expected_nonzero for trial in trials.values()}) == 2
