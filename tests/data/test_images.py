"""What the image loaders find, and what they refuse with path and reason."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from billhook.data import cifar10
from billhook.data.images import load_images
from billhook.errors import DataError


def real_data(name: str) -> Path:
    """A folder of the development data, or skip."""
    roots = [os.environ.get("BILLHOOK_DATA"), *(p / "shared/data" for p in Path.cwd().parents)]
    for root in roots:
        if root and (Path(root) / name).is_dir():
            return Path(root) / name
    pytest.skip(f"no {name}: set BILLHOOK_DATA to the folder that holds it")


def write_idx(path: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    raw = header + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for prefix, count, end in (("train", 20, ".gz"), ("t10k", 10, "")):
        pictures = random.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{end}", pictures)
        labels = (np.arange(count) % 5).astype(np.uint8)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{end}", labels)
    return tmp_path


def test_digits_need_no_files() -> None:
    data = load_images(None)
    assert len(data.train.labels) + len(data.test.labels) == 1797
    assert data.train.batch([0, 1], 8, None).max() == 1


def test_idx_files_with_and_without_gzip(idx: Path) -> None:
    data = load_images(idx)
    assert data.description == "IDX files: 20 + 10 grey pictures of 6 x 5, 5 classes"
    batch = data.train.batch([3, 4], 12, None)
    assert batch.shape == (2, 3, 12, 12)
    assert (batch[:, 0] == batch[:, 2]).all()


def test_fashion_mnist_is_whole() -> None:
    data = load_images(real_data("fashion-mnist"))
    assert data.description == "IDX files: 60000 + 10000 grey pictures of 28 x 28, 10 classes"
    assert data.train.labels.bincount().tolist() == [6000] * 10


def _cut(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])


def _cut_gzip(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])


def _other_kind(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"\x89PNG" * 9)


def _fewer_labels(folder: Path) -> None:
    write_idx(folder / "t10k-labels-idx1-ubyte", np.zeros(9, dtype=np.uint8))


def _label_too_large(folder: Path) -> None:
    write_idx(folder / "t10k-labels-idx1-ubyte", np.full(10, 7, dtype=np.uint8))


def _huge_claim(folder: Path) -> None:
    raw = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1)
    (folder / "t10k-images-idx3-ubyte").write_bytes(raw)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "t10k-labels-idx1-ubyte").unlink(), "t10k-labels.* is missing"),
        (_cut, "t10k-images.* has 315 bytes, its header .* promises 316"),
        (_cut_gzip, "train-images.*gz is damaged"),
        (_other_kind, "begins with 89 50 4e 47"),
        (_fewer_labels, "9 labels, its pictures are 10"),
        (_label_too_large, "label 7 of picture 0 is outside the 5 classes"),
        (_huge_claim, "promises"),
    ],
)
def test_idx_refuses_half_or_damaged_sets(idx: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    damage(idx)
    with pytest.raises(DataError, match=message):
        load_images(idx)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cifar10, "RECORDS", 20)
    for number, name in enumerate(cifar10.TRAIN_FILES + cifar10.TEST_FILES):
        records = np.full((20, 3073), number, dtype=np.uint8)
        records[:, 0] = np.arange(20) % 10
        records[:, 1:1025] = 255  # red
        records.tofile(tmp_path / name)
    return tmp_path


def test_cifar_reads_labels_and_channels_first_pictures(cifar: Path) -> None:
    data = load_images(cifar)
    assert (len(data.train.labels), len(data.test.labels)) == (100, 20)
    assert data.train.labels[:3].tolist() == [0, 1, 2]
    picture = data.test.batch([0], 32, None)[0]
    assert picture[0].eq(1).all()
    assert torch.allclose(picture[1], torch.tensor(5 / 255))


def test_cifar_refuses_missing_files_short_files_and_wrong_labels(cifar: Path) -> None:
    path = cifar / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"data_batch_3.bin has 61459 bytes"):
        load_images(cifar)
    path.write_bytes(b"\x0a" + whole[1:])
    with pytest.raises(DataError, match=r"data_batch_3.bin: label 10 of picture 0"):
        load_images(cifar)
    path.unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin is missing"):
        load_images(cifar)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        for shade, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.new("L" if number else "RGB", (30 + number, 20), shade * 200)
                picture.save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_image_folder_without_crops_gives_whole_pictures(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(256, size=(2, 8, 8, 3), dtype=np.uint8)
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels[number]).save(tmp_path / split / name / "1.png")
    images = load_images(tmp_path).train
    for seed in (None, 5):
        batch = images.batch([0, 1], 8, seed, crop=False)
        last = (batch * 255).round().byte().permute(0, 2, 3, 1)
        assert torch.equal(last, torch.from_numpy(pixels))


def test_image_folder_crops_alike_for_one_seed_and_index(folder: Path) -> None:
    data = load_images(folder)
    assert (data.classes, data.description) == (
        ("cat", "dog"),
        "image folder: 6 + 4 pictures, 2 classes",
    )
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    whole = data.train.batch([0, 4], 16, 5)
    assert whole.shape == (2, 3, 16, 16)
    torch.testing.assert_close(data.train.batch([4], 16, 5)[0], whole[1])
    assert data.test.batch([3], 16, None).mean() == pytest.approx(200 / 255)


def test_image_folder_refuses_what_is_not_whole(folder: Path) -> None:
    broken = folder / "train/dog/1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(DataError, match=r"train/dog/1.png does not decode"):
        load_images(folder).train.batch([4], 16, None)
    (folder / "train/dog/notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"notes.txt is not a picture"):
        load_images(folder)
    (folder / "val/fox").mkdir()
    with pytest.raises(DataError, match=r"'fox' is in val/ only"):
        load_images(folder)


def test_an_incomplete_imagenet_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(1000):
            path = tmp_path / split / f"n{number:08d}"
            path.mkdir(parents=True)
            (path / "a.jpg").touch()
    with pytest.raises(DataError, match=r"1,000 \+ 1,000 pictures, not 1,281,167 \+ 50,000"):
        load_images(tmp_path)


def test_another_folder_is_named_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "thesis.pdf").touch()
    with pytest.raises(DataError, match=r"no image data set.*thesis.pdf"):
        load_images(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        load_images(tmp_path / "nowhere")
