"""Text and parallel text: what is found, counted and refused."""

from pathlib import Path

import pytest
from tests.data.test_images import real_data

from billhook.data.bpe import decode, encode, train_bpe
from billhook.data.parallel import load_parallel
from billhook.data.text import Unit, load_text
from billhook.errors import ConfigurationError, DataError


@pytest.fixture
def ptb(tmp_path: Path) -> Path:
    for split, text in (
        ("train", " the cat sat \n the <unk> ran \n"),  # Mikolov's lines begin and end with blanks
        ("valid", " the cat ran \n"),
        ("test", "cat\n"),
    ):
        (tmp_path / f"ptb.{split}.txt").write_text(text)
    return tmp_path


def test_text_is_one_stream_with_an_end_after_every_line(ptb: Path) -> None:
    data = load_text(ptb)
    assert data.vocab == ("<eos>", "the", "<unk>", "cat", "ran", "sat")  # frequency, then alphabet
    assert data.train.tolist() == [1, 3, 5, 0, 1, 2, 4, 0]
    assert data.test.tolist() == [3, 0]
    assert "8 / 4 / 2 words, 6 different ones" in data.description


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ptb.valid.txt", "the dog ran\n", r"valid.txt, line 1: 'dog' never occurs"),
        ("ptb.test.txt", "cat\n\ncat\n", r"test.txt, line 2 is empty"),
        ("ptb.test.txt", "", r"test.txt is empty"),
        ("brown.test.txt", "cat\n", r"has to hold one \*test.txt, it has brown.test.txt, ptb"),
        ("ptb.test.txt", None, r"has to hold one \*test.txt, it has none"),
    ],
)
def test_text_is_refused_with_path_and_line(
    ptb: Path, name: str, text: str | None, message: str
) -> None:
    if text is None:
        (ptb / name).unlink()
    else:
        (ptb / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_text(ptb)


def test_text_names_the_line_that_is_no_utf8(ptb: Path) -> None:
    (ptb / "ptb.test.txt").write_bytes(b"cat\nc\xe4t\n")
    with pytest.raises(DataError, match=r"test.txt, line 2 is not UTF-8"):
        load_text(ptb)


def test_text_of_fewer_words_writes_unk_for_the_rare_ones(ptb: Path) -> None:
    data = load_text(ptb, vocab=4)
    assert data.vocab == ("<eos>", "the", "cat", "<unk>")
    assert data.train.tolist() == [1, 2, 3, 0, 1, 3, 3, 0]
    assert data.valid.tolist() == [1, 2, 3, 0]
    assert "4 kept" in data.description


def test_text_without_unk_gets_one(ptb: Path) -> None:
    for split in ("train", "valid", "test"):
        (ptb / f"ptb.{split}.txt").write_text("the the cat\nthe dog\n")
    data = load_text(ptb, vocab=3)
    assert data.vocab == ("the", "<eos>", "<unk>")
    assert data.test.tolist() == [0, 0, 2, 1, 0, 2, 1]


@pytest.mark.parametrize("unit", ["word", "character"])
def test_a_cut_vocabulary_has_room_for_what_training_never_saw(ptb: Path, unit: Unit) -> None:
    (ptb / "ptb.test.txt").write_text("the Zebra ran\n")
    with pytest.raises(DataError, match=r"test.txt, line 1: 'Z.* set \[data\] vocab"):
        load_text(ptb, unit)
    data = load_text(ptb, unit, vocab=5)
    assert len(data.vocab) == 5
    assert data.vocab[-1] == "<unk>"
    for stream in (data.train, data.valid, data.test):
        assert int(stream.max()) < 5


def test_text_by_characters_is_what_the_files_hold(ptb: Path) -> None:
    data = load_text(ptb, "character")
    for split in ("train", "valid", "test"):
        text = "".join(data.vocab[number] for number in getattr(data, split).tolist())
        assert text == (ptb / f"ptb.{split}.txt").read_text()
    assert data.vocab[:3] == (" ", "t", "a")
    assert "30 / 14 / 4 characters, 14 different ones" in data.description


def test_text_by_characters_may_have_empty_lines(ptb: Path) -> None:
    (ptb / "ptb.train.txt").write_text("the cat\n\nran <unk>\n")
    assert load_text(ptb, "character", vocab=3).vocab[-1] == "<unk>"


@pytest.mark.parametrize("size", [1, 7])
def test_text_refuses_vocabularies_it_cannot_have(ptb: Path, size: int) -> None:
    with pytest.raises(ConfigurationError, match=f"vocab {size} .* from 2 to 6"):
        load_text(ptb, vocab=size)


def test_embedded_prose_is_in_the_form_of_the_ptb_files() -> None:
    data = load_text(None)
    assert {"<unk>", "<eos>", "N", "the"} <= set(data.vocab)
    assert len(data.vocab) <= 2_003
    assert len(data.train) > 5 * len(data.test) > 5_000


def test_brown_has_the_counts_of_its_readme() -> None:
    data = load_text(real_data("brown"))
    assert (len(data.train), len(data.valid), len(data.test)) == (904_336, 87_740, 77_131)
    assert len(data.vocab) == 10_000


@pytest.fixture
def parallel(tmp_path: Path) -> Path:
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.de").write_text("Guten Tag\nJa\u2028Nein\n")
        (tmp_path / f"{split}.en").write_text("Good day\nYes no\n")
    return tmp_path


def test_parallel_text_splits_at_line_feeds_only(parallel: Path) -> None:
    data = load_parallel(parallel, "en", "de")
    assert data.train.source == ["Good day", "Yes no"]
    assert data.train.target == ["Guten Tag", "Ja\u2028Nein"]
    assert "2 / 2 / 2 pairs" in data.description


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("valid.en", b"Good day\n", r"valid.de has 2 lines, .*valid.en has 1"),
        ("train.de", b"Guten Tag\n \n", r"train.de, line 2 is empty"),
        ("train.de", b"Guten Tag\nJ\xe4\n", r"train.de, line 2 is not UTF-8"),
        ("test.de", None, r"test.de is missing"),
    ],
)
def test_parallel_text_is_refused_with_path_and_line(
    parallel: Path, name: str, text: bytes | None, message: str
) -> None:
    if text is None:
        (parallel / name).unlink()
    else:
        (parallel / name).write_bytes(text)
    with pytest.raises(DataError, match=message):
        load_parallel(parallel, "de", "en")


def test_embedded_names_are_pairs_that_occur_once() -> None:
    data = load_parallel(None, "de", "en")
    splits = (data.train, data.valid, data.test)
    pairs = [pair for split in splits for pair in zip(split.source, split.target, strict=True)]
    assert len(pairs) == len(set(pairs)) > 1_000
    assert ("Deutsche Mark", "German Mark") in pairs
    with pytest.raises(DataError, match="German and English"):
        load_parallel(None, "de", "fr")


def test_help_de_en_has_the_counts_of_its_readme() -> None:
    data = load_parallel(real_data("help-de-en"), "de", "en")
    assert len(data.train.source) == 32_906
    assert (len(data.valid.source), len(data.test.source)) == (1_159, 1_208)


def test_bpe_loses_nothing_even_of_what_it_never_saw() -> None:
    tokenizer = train_bpe(["Guten Tag, guten Abend"] * 3, 270)
    assert [tokenizer.token_to_id(piece) for piece in ("<pad>", "<s>", "</s>")] == [0, 1, 2]
    sentences = ["guten Tag", "Grüße, 你好!"]
    encoded = encode(tokenizer, sentences)
    pieces = [encoded.sentence(i).tolist() for i in range(2)]
    assert encoded.lengths.tolist() == [len(row) for row in pieces]
    assert decode(tokenizer, [[1, *pieces[0], 2], pieces[1]]) == sentences
    with pytest.raises(ConfigurationError, match="258 pieces"):
        train_bpe(["x"], 258)
