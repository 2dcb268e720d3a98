"""The speaker encoder of the package resemblyzer: three LSTM layers, a voice to 256 numbers.

Its weights are under the Apache License 2.0. Speech: LibriSpeech (CC BY 4.0) as the repository
resemble-ai/Resemblyzer has it in ``audio_data``: 251 sentences of as many people to learn from,
and 100 of ten other people to judge by.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from task import Inputs, Task, angle, package
from torch import Tensor, nn

RATE, WINDOW, HOP, BANDS = 16_000, 400, 160, 40
FRAMES, LEARNT = 160, 80  # 1.6 s at a time, and half of that to learn from
LOUDNESS = -30  # dB of full scale, at least


class VoiceEncoder(nn.Module):
    """Spectra (N, 160, 40) to embeddings (N, 256) that are not yet of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, spectra: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(spectra)
        return torch.relu(self.linear(hidden[-1]))


def mel_filters() -> Tensor:
    """(bins, bands): triangles on the mel scale of Slaney, each of area one, as in librosa."""

    def mel(hertz: float) -> float:
        return hertz / (200 / 3) if hertz < 1000 else 15 + np.log(hertz / 1000) / (np.log(6.4) / 27)

    edges = np.linspace(0, mel(RATE / 2), BANDS + 2)
    hertz = np.where(edges < 15, edges * 200 / 3, 1000 * np.exp((edges - 15) * np.log(6.4) / 27))
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, top, high = hertz[:-2], hertz[1:-1], hertz[2:]
    triangles = np.minimum((bins - low) / (top - low), (high - bins) / (high - top))
    return torch.tensor(np.maximum(0, triangles) * 2 / (high - low), dtype=torch.float32)


def spectrum(wave: Tensor) -> Tensor:
    """Energies (frames, bands) of a wave, made louder if it is faint."""
    loudness = 10 * torch.log10(wave.square().mean())
    wave = wave * 10 ** (max(0.0, LOUDNESS - float(loudness)) / 20)
    window = torch.hann_window(WINDOW)
    bins = torch.stft(
        wave, WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True
    )
    return bins.abs().square().T @ mel_filters()


def read(path: Path) -> Tensor:
    """The spectrum of a file of 16 kHz."""
    import soundfile

    wave, rate = soundfile.read(path, dtype="float32")
    if rate != RATE:
        raise ValueError(f"{path} has {rate} samples a second: {RATE} are needed")
    return spectrum(torch.from_numpy(wave))


def windows(frames: Tensor) -> Tensor:
    """(N, 160, 40): windows that overlap by half."""
    padded = torch.cat([frames, frames.new_zeros(max(0, FRAMES - len(frames)), BANDS)])
    starts = range(0, len(padded) - FRAMES + 1, FRAMES // 2)
    return torch.stack([padded[start : start + FRAMES] for start in starts])


def equal_error_rate(scores: Tensor, same: Tensor) -> float:
    """In per cent: the threshold's errors where as many pairs are taken for one voice wrongly as
    are taken for two.

    >>> equal_error_rate(torch.tensor([0.9, 0.7, 0.8, 0.1]), torch.tensor([1, 1, 0, 0]))
    50.0
    """
    same = same.bool()[scores.argsort(descending=True)]
    missed = 1 - same.cumsum(0) / same.sum()
    accepted = (~same).cumsum(0) / (~same).sum()
    nearest = (missed - accepted).abs().argmin()
    return round(50 * float(missed[nearest] + accepted[nearest]), 3)


class Voices:
    """Sentences of several people, and how well a model tells the people apart."""

    def __init__(self, files: list[Path]) -> None:
        parts = [windows(read(path)) for path in files]
        self.counts, self.windows = [len(part) for part in parts], torch.cat(parts)
        self.speaker = torch.tensor([int(path.parent.name) for path in files])

    def judge(self, run: Any) -> float:
        """The equal error rate over all pairs of sentences."""
        made = torch.cat([torch.as_tensor(run(part)) for part in self.windows.split(32)])
        made = nn.functional.normalize(made, dim=1)
        means = torch.stack([each.mean(0) for each in made.split(self.counts)])
        means = nn.functional.normalize(means, dim=1)
        first, second = torch.triu_indices(len(means), len(means), 1)
        scores = (means[first] * means[second]).sum(1)
        return equal_error_rate(scores, self.speaker[first] == self.speaker[second])


def load(data: Path, packages: Path) -> Task:
    """The encoder, ``data`` being the folder ``audio_data``."""
    model = VoiceEncoder()
    weights = package("resemblyzer", "0.1.4", packages) / "resemblyzer" / "pretrained.pt"
    state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    spoken = [read(path) for path in sorted((data / "librispeech_train-clean-100").glob("*.flac"))]
    long = [frames for frames in spoken if len(frames) > LEARNT]
    voices = Voices(sorted((data / "librispeech_test-other").glob("*/*.flac")))

    def batches(count: int) -> Iterator[Inputs]:
        draw = torch.Generator().manual_seed(0)
        for _ in range(count):
            rows = []
            for index in torch.randint(len(long), (16,), generator=draw).tolist():
                last = len(long[index]) - LEARNT
                start = int(torch.randint(last + 1, (1,), generator=draw))
                rows.append(long[index][start : start + LEARNT])
            yield (torch.stack(rows),)

    return Task(
        name="speaker encoder, 3 LSTM layers",
        licence="Apache-2.0 (resemblyzer 0.1.4)",
        model=model.eval(),
        example=(voices.windows[:1].clone(),),
        batches=batches,
        calibration=(torch.cat([windows(frames)[:1] for frames in long[:64]]),),
        distance=angle,
        judge=voices.judge,
        measure="equal error rate, %",
        sparsity=0.9,
        steps=500,
        rate=2e-3,
    )
