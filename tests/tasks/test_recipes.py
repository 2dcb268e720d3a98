"""The recipes are the paper's, as data; every one builds its full model."""

from importlib import resources
from pathlib import Path

import pytest
import torch

from billhook.errors import ConfigurationError
from billhook.models import gnmt, inception_v3, mobilenet_v1, ptb_lstm
from billhook.tasks.recipe import Recipe, load_recipe

FILES = sorted(
    path.name.removesuffix(".toml")
    for path in (resources.files("billhook.tasks") / "recipes").iterdir()
    if path.name.endswith(".toml") and not path.name.startswith("digits.")
)
MODELS = {
    "mobilenet_v1": mobilenet_v1,
    "inception_v3": inception_v3,
    "ptb_lstm": ptb_lstm,
    "gnmt": gnmt,
}


def recipe_of(name: str) -> Recipe:
    family, _, rest = name.partition(".")
    return load_recipe(family, rest)


def test_every_family_has_a_paper_and_a_laptop_recipe() -> None:
    assert {f"{family}.{kind}" for family in MODELS for kind in ("paper", "laptop")} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_recipes_build_their_model_and_say_what_was_chosen(name: str) -> None:
    recipe = recipe_of(name)
    assert "chosen here" in recipe.notes.lower()
    with torch.device("meta"):
        MODELS[recipe.family](**recipe.model)  # type: ignore[operator]
    assert recipe.total_steps(1000) > 0
    assert recipe.pruning.begin < recipe.pruning.end


@pytest.mark.parametrize(
    ("name", "constant", "epochs", "factor", "window_and_clip"),
    [
        ("ptb_lstm.paper", 4, 13, 0.5, (20, 5)),
        ("ptb_lstm.paper-medium", 6, 39, 0.8, (35, 5)),
        ("ptb_lstm.paper-large", 14, 55, 1 / 1.15, (35, 10)),
    ],
)
def test_ptb_learning_rate_is_the_original_one_epoch_by_epoch(
    name: str, constant: int, epochs: int, factor: float, window_and_clip: tuple[int, int]
) -> None:
    recipe = recipe_of(name)
    assert (recipe.data.window, recipe.training.clip_norm) == window_and_clip
    assert recipe.training.batch_size == 20
    assert recipe.total_steps(1327) == 1327 * epochs
    for epoch in range(epochs):
        expected = factor ** max(epoch + 1 - constant, 0)  # ptb_word_lm's formula
        for step in (1327 * epoch, 1327 * epoch + 1326):
            assert recipe.learning_rate(step, 1327) == pytest.approx(expected, rel=1e-12)


def test_gnmt_learning_rate_is_halved_every_17000_steps_after_170000() -> None:
    recipe = recipe_of("gnmt.paper")
    assert recipe.total_steps(1) == 350_000
    rates = {
        0: 1.0,
        169_999: 1.0,
        186_999: 1.0,
        187_000: 0.5,
        204_000: 0.25,
        349_999: 0.5**10,
    }
    for step, rate in rates.items():
        assert recipe.learning_rate(step, 1) == rate


def test_mobilenet_learning_rate_falls_every_two_and_a_half_epochs() -> None:
    recipe = recipe_of("mobilenet_v1.paper")
    steps = 1_281_167 // 64
    assert recipe.learning_rate(int(2.5 * steps) - 1, steps) == 0.045
    assert recipe.learning_rate(int(2.5 * steps) + 1, steps) == pytest.approx(0.045 * 0.94)


def test_cosine_warms_up_and_ends_near_zero() -> None:
    recipe = recipe_of("ptb_lstm.laptop").changed(
        training={"epochs": None, "steps": 1000}, schedule={"warmup": 0.1}
    )
    rates = [recipe.learning_rate(step, 1) / recipe.optimizer.lr for step in range(1000)]
    assert rates[:101] == sorted(rates[:101])
    assert rates[100] == max(rates) == 1.0
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert 0 < rates[-1] < 1e-4


def test_a_recipe_with_a_wrong_value_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = (resources.files("billhook.tasks") / "recipes" / "gnmt.paper.toml").read_text()
    path.write_text(text.replace("lr = 1.0", "lr = -1.0"))
    with pytest.raises(ConfigurationError, match=r"mine.toml: optimizer.lr -1.0: .* than 0"):
        load_recipe("gnmt", str(path))
    path.write_text(text.replace("lr = 1.0", "lr = 1.0\nnesterow = true"))
    with pytest.raises(ConfigurationError, match=r"unknown key optimizer.nesterow: the keys"):
        load_recipe("gnmt", str(path))
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="for gnmt, not for ptb_lstm"):
        load_recipe("ptb_lstm", str(path))
    with pytest.raises(ConfigurationError, match="no recipe 'desktop'"):
        load_recipe("gnmt", "desktop")
