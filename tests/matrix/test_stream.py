"""The example that listens to a stream: what it draws, and its program cut into frames."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import billhook

PATH = Path(__file__).parents[2] / "examples" / "tones.py"


@pytest.fixture(scope="module")
def tones() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tones", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_key_is_its_two_frequencies(tones: ModuleType) -> None:
    low, high = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
    for row, keys in enumerate(("123A", "456B", "789C", "*0#D")):
        for column, key in enumerate(keys):
            made = tones.tone(tones.KEYS.index(key), 8000, np.random.default_rng(row))
            loud = np.abs(np.fft.rfft(made * np.hanning(8000)))  # a bin for each Hz
            for hertz, (first, last) in ((low[row], (0, 1000)), (high[column], (1000, 4000))):
                peak = first + loud[first:last].argmax()
                assert abs(peak - hertz) <= 0.015 * hertz + 1, key


def test_labels_are_of_frames_that_are_one_key_or_silence(tones: ModuleType) -> None:
    made, labels = tones.dialled([4, 4, 9], np.random.default_rng(0))
    assert len(made) == len(labels) * tones.FRAME
    assert np.abs(made).max() <= 1
    sure = labels[labels != tones.UNSURE]
    runs = sure[np.flatnonzero(np.diff(sure, prepend=-1))]
    assert runs.tolist() == [16, 4, 16, 4, 16, 9, 16]
    loudness = np.square(made.reshape(-1, tones.FRAME)).mean(1)
    keys, silence = (labels >= 0) & (labels < 16), labels == 16
    assert loudness[keys].min() > 2 * loudness[silence].max()


def test_frame_by_frame_is_the_whole_stream(tones: ModuleType, tmp_path: Path) -> None:
    model = tones.train(3, 0.9)
    zeros = {name: float((p == 0).float().mean()) for name, p in model.named_parameters()}
    assert all(
        zeros[f"gru.weight_{part}_l0"] == pytest.approx(0.9, abs=1e-3) for part in ("ih", "hh")
    )
    state = torch.zeros(1, 1, 64)
    fast = billhook.compile(model, (torch.zeros(1, 1, 160), state), standalone=True)
    billhook.save(fast, tmp_path / "tones.billhook.safetensors")
    program = billhook.load_compiled(tmp_path / "tones.billhook.safetensors")
    frames, _ = tones.batch(1, np.random.default_rng(3))
    with torch.no_grad():
        wanted, end = model(frames, state)
    scores = []
    for frame in frames.split(1, dim=1):
        made, state = program(frame, state)
        scores.append(made)
    torch.testing.assert_close(torch.cat(scores, 1), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, end, rtol=1e-4, atol=1e-5)
