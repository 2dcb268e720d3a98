"""Metrics and batches: whole streams, carried state, shards, buckets."""

import math

import pytest
import torch
from torch.nn import functional as F

from billhook.data.images import ArrayImages, ImageData, load_images
from billhook.data.parallel import load_parallel
from billhook.data.text import from_lines
from billhook.errors import ConfigurationError, DataError
from billhook.models import GNMT, ptb_lstm
from billhook.tasks.build import build_task
from billhook.tasks.classification import Classification
from billhook.tasks.language import LanguageModelling, perplexity
from billhook.tasks.recipe import Recipe, load_recipe
from billhook.tasks.task import Shard
from billhook.tasks.translation import Translation, bucketed, translate

CPU = torch.device("cpu")


def words_recipe(batch_size: int = 3, window: int = 4) -> Recipe:
    return load_recipe("ptb_lstm", "paper").changed(
        model={"size": None, "hidden": 8},
        data={"window": window},
        training={"batch_size": batch_size},
    )


LINES = {
    "train": [" ".join("abcdefgh"[i % 8] for i in range(start, start + 7)) for start in range(12)],
    "valid": ["a b c d"] * 300,
    "test": ["d c b a"] * 5,
}


def test_perplexity_is_over_the_whole_stream_with_the_state_carried() -> None:
    torch.manual_seed(0)
    model = ptb_lstm(hidden=8, vocab=9, init_scale=1.0).eval()
    stream = from_lines(LINES, "x").valid  # longer than two evaluation windows
    assert len(stream) == 1500
    logits, _ = model(stream[:-1].unsqueeze(0))
    expected = math.exp(F.cross_entropy(logits[0], stream[1:]).item())
    assert perplexity(model, stream) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("size", "rows"), [(1500, 2), (1500, 7), (700, 3), (40, 6), (4, 32)])
def test_perplexity_in_rows_counts_every_symbol_once_after_a_lead_in(size: int, rows: int) -> None:
    torch.manual_seed(0)
    model = ptb_lstm(hidden=8, vocab=9, init_scale=1.0).eval()
    stream = torch.randint(9, (size,))
    count = size - 1
    length = math.ceil(count / min(rows, count))
    losses = []
    for start in range(0, count, length):
        lead = min(512, length) if start else 0
        end = min(start + length, count)
        logits, _ = model(stream[start - lead : end].unsqueeze(0))
        following = stream[start + 1 : end + 1]
        losses.append(F.cross_entropy(logits[0, lead:], following, reduction="none"))
    expected = torch.cat(losses)
    assert len(expected) == count
    assert perplexity(model, stream, rows) == pytest.approx(expected.mean().exp().item(), rel=1e-5)


def test_characters_are_read_in_rows() -> None:
    data = from_lines(LINES, "x", unit="character")
    task = LanguageModelling(words_recipe(), data)
    assert task.arguments["vocab"] == len("abcdefgh \n")
    with torch.no_grad():
        expected = perplexity(task.model.eval(), data.valid, rows=32)
        assert task.evaluate(task.model, "valid") == {"perplexity": expected}


def test_language_windows_cover_the_rows_in_order_and_carry_the_state() -> None:
    task = LanguageModelling(words_recipe(), from_lines(LINES, "x"))
    length = len(task.data.train) // 3  # 96 words, 32 a row
    assert task.steps_per_epoch == (length - 1) // 4 == 7
    batches = list(task.batches(0, 0, CPU))
    words = torch.cat([words for words, _ in batches], dim=1)
    following = torch.cat([following for _, following in batches], dim=1)
    rows = task.data.train[: 3 * length].reshape(3, length)
    assert torch.equal(words, rows[:, :28])
    assert torch.equal(following, rows[:, 1:29])
    task.model.eval()
    list(task.batches(0, 0, CPU))
    losses = [task.loss(task.model, batch) for batch in batches]
    whole, _ = task.model(words)
    expected = F.cross_entropy(whole.flatten(0, 1), following.flatten())
    assert torch.stack(losses).mean().item() == pytest.approx(4 * expected.item(), rel=1e-5)
    next(task.batches(1, 0, CPU))
    assert task.state is None  # a new epoch starts from nothing


def test_shards_are_the_rows_of_the_whole_batch() -> None:
    data = from_lines(LINES, "x")
    whole = next(LanguageModelling(words_recipe(4), data).batches(0, 0, CPU))[0]
    parts = [
        next(LanguageModelling(words_recipe(4), data, Shard(rank, 2)).batches(0, 0, CPU))[0]
        for rank in (0, 1)
    ]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)
    with pytest.raises(ConfigurationError, match="batch_size 3 does not divide among 2"):
        LanguageModelling(words_recipe(3), data, Shard(0, 2))


def test_a_vocabulary_larger_than_the_models_is_refused() -> None:
    recipe = words_recipe().changed(model={"vocab": 8})
    with pytest.raises(DataError, match="9 different words .* vocabulary 8"):
        LanguageModelling(recipe, from_lines(LINES, "x"))


def images(classes: int = 3, count: int = 12) -> ImageData:
    torch.manual_seed(0)
    part = ArrayImages(
        torch.randint(256, (count, 9, 9), dtype=torch.uint8), torch.arange(count) % classes
    )
    return ImageData(part, part, tuple("abcdefgh"[:classes]), "noise")


def image_recipe() -> Recipe:
    return load_recipe("mobilenet_v1", "laptop").changed(
        model={"width": 0.1},
        data={"pixels": 33, "augment": (), "validation": 0.0},
        training={"batch_size": 4},
    )


def test_an_epoch_sees_every_picture_once_in_an_order_of_its_own() -> None:
    data = images(classes=8, count=8)
    task = Classification(image_recipe(), data)
    orders = [
        torch.cat([labels for _, labels in task.batches(epoch, 0, CPU)]).tolist()
        for epoch in (0, 1, 0)
    ]
    assert sorted(orders[0]) == list(range(8))
    assert orders[0] == orders[2] != orders[1]
    later = torch.cat([labels for _, labels in task.batches(0, 1, CPU)]).tolist()
    assert later == orders[0][4:]


def test_held_out_pictures_are_the_same_for_every_seed_and_never_trained_on() -> None:
    data = load_images(None)
    tasks = [
        Classification(
            image_recipe().changed(data={"validation": 0.2}, training={"seed": seed}), data
        )
        for seed in (0, 1)
    ]
    for task in tasks:
        images, held_out = task.splits["valid"]
        assert images is data.train
        assert len(held_out) == round(0.2 * len(data.train.labels))
        assert torch.equal(held_out, tasks[0].splits["valid"][1])
        assert not set(held_out.tolist()) & set(task.train_rows.tolist())
        assert len(held_out) + len(task.train_rows) == len(data.train.labels)
    model = tasks[0].model.eval()
    with torch.no_grad():
        losses = [tasks[0].evaluate(model, split)["loss"] for split in ("valid", "test")]
    assert losses[0] != losses[1]


def test_top1_and_top5_are_counted_over_the_whole_test_split() -> None:
    task = Classification(image_recipe(), images())

    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = torch.nn.Parameter(torch.tensor([0.0, 2.0, 1.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scores.expand(len(x), 3)

    with torch.no_grad():
        metrics = task.evaluate(Constant(), "test")
    assert metrics["top1"] == pytest.approx(100 / 3)
    assert metrics["top5"] == 100


def test_class_counts_have_to_fit_the_model() -> None:
    recipe = image_recipe()
    background = Classification(recipe.changed(model={"num_classes": 4}), images())
    _, labels = next(background.batches(0, 0, CPU))
    assert labels.min() == 1  # slim's class 0 stays empty
    with pytest.raises(DataError, match="num_classes 10, the data 3 classes"):
        Classification(recipe.changed(model={"num_classes": 10}), images())
    with pytest.raises(DataError, match="12 training pictures do not fill one batch of 64"):
        Classification(recipe.changed(training={"batch_size": 64}), images())


def test_an_unknown_augmentation_is_named() -> None:
    recipe = image_recipe().changed(data={"augment": (("RandomMagic", {}),)})
    with pytest.raises(ConfigurationError, match="'RandomMagic'"):
        Classification(recipe, images())


@pytest.fixture(scope="module")
def translation() -> Translation:
    torch.manual_seed(0)
    recipe = load_recipe("gnmt", "laptop").changed(
        model={"units": 8}, data={"pieces": 300, "max_length": 12}
    )
    return Translation(recipe, load_parallel(None, "de", "en"))


def test_translation_leaves_out_long_pairs_and_says_how_many(translation: Translation) -> None:
    longest = torch.maximum(translation.source.lengths, translation.target.lengths)
    left_out = int((longest > 12).sum())
    assert left_out > 0
    words = f"{left_out} training pairs of more than 12 pieces left out"
    assert words in translation.data_description
    source, lengths, target, following = next(translation.batches(0, 0, CPU))
    assert len(source) == 64
    assert lengths.max() <= 13  # with the end
    assert torch.equal(target[:, 1:], following[:, :-1].masked_fill(target[:, 1:] == 0, 0))


def test_buckets_hold_each_sentence_once_and_similar_lengths() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(1, 50, (1000,))
    batches = bucketed(torch.randperm(1000), lengths, 10, whole=False)
    assert sorted(torch.cat(batches).tolist()) == list(range(1000))
    spread = [int(lengths[b].max() - lengths[b].min()) for b in batches]
    assert max(spread) < 15
    assert all(len(b) == 10 for b in bucketed(torch.arange(995), lengths, 10))


def test_translations_come_back_in_the_order_of_their_sources(translation: Translation) -> None:
    model = translation.model.eval()
    assert isinstance(model, GNMT)
    sources = [translation.source.sentence(i) for i in (5, 0, 9)]
    for beam in (1, 3):
        together = translate(model, sources, beam, batch_size=2)
        alone = [translate(model, [source], beam, batch_size=1)[0] for source in sources]
        longest = [2 * (len(source) + 1) for source in sources]
        for a, b, limit in zip(together, alone, longest, strict=True):
            assert a[:limit] == b  # a batch goes on as long as its longest source allows


def test_bleu_has_its_signature_and_is_100_for_the_reference(
    translation: Translation, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = translation.texts["test"].target
    monkeypatch.setattr(translation, "translate", lambda model, sentences, beam: reference)
    metrics = translation.evaluate(translation.model.eval(), "test")
    assert metrics["bleu"] == pytest.approx(100)
    assert "tok:13a" in str(metrics["signature"])
    assert float(metrics["perplexity"]) > 1


def test_the_pieces_of_a_data_set_are_learnt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("gnmt", "laptop").changed(model={"units": 8})
    first = build_task(recipe, None)
    monkeypatch.setattr("billhook.data.bpe.train_bpe", None)  # it would fail
    second = build_task(recipe.changed(training={"seed": 1}), None)
    assert isinstance(first, Translation)
    assert isinstance(second, Translation)
    assert second.source is first.source
    assert second.model is not first.model
