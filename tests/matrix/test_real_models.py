"""The example of trained networks: its measures beside naive ones, and the whole chain."""

import importlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "real_models"
BUILT = ROOT / "build" / "runtime"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXAMPLE)
    yield
    for name in ("task", "speech", "sentences"):
        sys.modules.pop(name, None)


@pytest.fixture
def speech(example: None) -> ModuleType:
    return importlib.import_module("speech")


@pytest.fixture
def sentences(example: None) -> ModuleType:
    return importlib.import_module("sentences")


def test_equal_error_rate(speech: ModuleType) -> None:
    """Errors at every threshold, one after another."""
    rng = np.random.default_rng(0)
    for size in (2, 7, 40):
        same = np.arange(size) % 3 == 0
        scores = rng.standard_normal(size) + same
        best, wanted = np.inf, 0.0
        for threshold in scores:
            missed = np.mean(scores[same] < threshold)
            accepted = np.mean(scores[~same] >= threshold)
            if abs(missed - accepted) < best:
                best, wanted = abs(missed - accepted), 50 * (missed + accepted)
        found = speech.equal_error_rate(torch.tensor(scores), torch.tensor(same))
        assert found == pytest.approx(wanted, abs=50 / size)
    apart = torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([True, True, False, False])
    assert speech.equal_error_rate(*apart) == 0


def test_a_tone_is_in_its_band(speech: ModuleType) -> None:
    filters = speech.mel_filters()
    assert filters.shape == (201, 40)
    area = filters.sum(0) * 40  # Hz between two bins
    torch.testing.assert_close(area[10:], torch.ones(30), rtol=0.05, atol=0)
    times = torch.arange(16_000) / 16_000
    loudest = []
    for hertz in (200, 400, 800, 1600, 3200, 6400):
        energies = speech.spectrum(torch.sin(2 * torch.pi * hertz * times))
        assert energies.shape == (101, 40)
        band = int(energies[50].argmax())
        assert filters[round(hertz / 40), band] > 0
        loudest.append(band)
    assert loudest == sorted(loudest)


def test_windows_overlap_by_half(speech: ModuleType) -> None:
    frames = torch.arange(400.0)[:, None].expand(400, 40)
    assert speech.windows(frames)[:, 0, 0].tolist() == [0, 80, 160, 240]
    assert speech.windows(frames[:100]).shape == (1, 160, 40)


def test_rank_correlation(sentences: ModuleType) -> None:
    """By counting how many are smaller."""

    def ranks(values: list[float]) -> list[float]:
        return [
            sum(other < each for other in values) + (values.count(each) + 1) / 2 for each in values
        ]

    rng = np.random.default_rng(0)
    for size in (3, 10, 50):
        a, b = (rng.integers(6, size=size).astype(float).tolist() for _ in range(2))
        b = [x + y for x, y in zip(a, b, strict=True)]
        assert sentences.ranks(torch.tensor(a)).tolist() == ranks(a)
        wanted = 100 * float(np.corrcoef(ranks(a), ranks(b))[0, 1])
        found = sentences.rank_correlation(torch.tensor(a), torch.tensor(b))
        assert found == pytest.approx(wanted, abs=1e-3)


def voices(folder: Path) -> None:
    """Files as LibriSpeech has them: hums, of three people, of two pitches each."""
    import soundfile

    times = np.arange(16_000 * 3) / 16_000
    for speaker, sentence in itertools.product(range(3), range(2)):
        pitch = 90 + 50 * speaker + 5 * sentence
        wave = sum(np.sin(2 * np.pi * pitch * k * times) / k for k in range(1, 20))
        other = folder / "librispeech_test-other" / str(speaker)
        learnt = folder / "librispeech_train-clean-100"
        for each in (other, learnt):
            each.mkdir(parents=True, exist_ok=True)
            soundfile.write(each / f"{speaker}-{sentence}.flac", 0.1 * wave, 16_000)


@pytest.mark.slow
def test_the_speaker_encoder(tmp_path: Path) -> None:
    """Pruned, saved and run in every way, on hums in the place of speech."""
    for module in ("soundfile", "onnxruntime"):
        pytest.importorskip(module)
    if not (BUILT / "time").exists():
        pytest.skip("`make runtime` has not been run")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    fetched = subprocess.run(
        [*command, "--dest", str(tmp_path), "resemblyzer==0.1.4"], capture_output=True, check=False
    )
    if fetched.returncode:
        pytest.skip("the package resemblyzer cannot be had here")
    voices(tmp_path / "data")
    command = [sys.executable, str(EXAMPLE), "speech", "--data", str(tmp_path / "data")]
    command += ["--steps", "2", "--rounds", "1", "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    errors = dict(re.findall(r"^(\w+) differs from torch by (\S+) of", ran.stdout, re.MULTILINE))
    assert errors.keys() == {"C", "billhook_runtime"}
    assert all(float(error) <= 1e-5 for error in errors.values())
    rows = re.findall(r"^\| (\w[^|]*) \| [^|]+ \| [\d.]+ \| ([\d.]+) \|", ran.stdout, re.MULTILINE)
    assert [name for name, _ in rows] == [
        *("torch", "ONNX Runtime", "ONNX Runtime int8"),
        *("billhook", "billhook", "billhook", "billhook int8"),
    ]
    sizes = {name: float(size) for name, size in rows}
    assert sizes["billhook int8"] < sizes["billhook"] < sizes["torch"] / 5
