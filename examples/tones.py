"""A network that listens to a stream: which keys of a telephone are pressed, 20 ms at a time.

    python examples/tones.py    # trains for half a minute, writes two files runs/tones.*
    make runtime
    build/runtime/stream runs/tones.billhook.safetensors runs/tones.wav

Each key is two sines (ITU-T Q.23). They are drawn with noise, with several loudnesses, and with
frequencies that are off by up to 1.5%. The GRU's state is an input and an output of the program, so
a stream can be cut anywhere. ``runtime/examples/stream.c`` reads the WAV file in frames of 160
samples.
"""

import argparse
import wave
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import billhook

RATE, FRAME = 8000, 160
KEYS = "123A456B789C*0#D"
LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477, 1633)  # Hz, of rows and of columns
SILENCE = len(KEYS)
UNSURE = -100  # frames that begin or end a tone


class Tones(nn.Module):
    """Frames (N, T, 160) and a state (1, N, 64) to scores (N, T, 17) and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Linear(FRAME, 96)
        self.gru = nn.GRU(96, 64, batch_first=True)
        self.out = nn.Linear(64, len(KEYS) + 1)

    def forward(self, frames: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        heard, state = self.gru(torch.relu(self.filters(frames)), state)
        return self.out(heard), state


def tone(key: int, samples: int, draw: np.random.Generator) -> np.ndarray:
    """A key's two sines, each with a loudness and a frequency of its own."""
    times = np.arange(samples) / RATE
    made = np.zeros(samples)
    for hertz in (LOW[key // 4], HIGH[key % 4]):
        exact = hertz * (1 + draw.uniform(-0.015, 0.015))
        made += draw.uniform(0.1, 0.4) * np.sin(2 * np.pi * (exact * times + draw.random()))
    return made


def dialled(keys: list[int], draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A wave in [-1, 1], and for each frame its key, SILENCE or UNSURE. Tones and pauses are 60 to
    200 ms long."""
    parts, owners = [], []
    for key in keys:
        for owner in (SILENCE, key):
            samples = int(RATE * draw.uniform(0.06, 0.2))
            parts.append(np.zeros(samples) if owner == SILENCE else tone(owner, samples, draw))
            owners.append(np.full(samples, owner))
    owner = np.concatenate([*owners, np.full(-sum(map(len, owners)) % FRAME + FRAME, SILENCE)])
    made = np.zeros(len(owner))
    made[: sum(map(len, parts))] = np.concatenate(parts)
    made += draw.uniform(0.001, 0.03) * draw.standard_normal(len(made))
    frames = owner.reshape(-1, FRAME)
    same = (frames == frames[:, :1]).all(1)
    return np.clip(made, -1, 1), np.where(same, frames[:, 0], UNSURE)


def batch(size: int, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Streams of 60 frames each: samples (N, 60, 160), keys (N, 60)."""
    streams = [dialled(draw.integers(len(KEYS), size=12).tolist(), draw) for _ in range(size)]
    frames = np.stack([made[: 60 * FRAME].reshape(60, FRAME) for made, _ in streams])
    labels = np.stack([owner[:60] for _, owner in streams])
    return torch.tensor(frames, dtype=torch.float32), torch.tensor(labels)


def train(steps: int, sparsity: float) -> Tones:
    """As always, with a pruner."""
    torch.manual_seed(0)
    draw, model = np.random.default_rng(0), Tones()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    schedule = billhook.Cubic.over(steps, final_sparsity=sparsity)
    pruner = billhook.Pruner(model, optimizer, schedule, rules={"out": None})
    for _ in range(steps):
        frames, labels = batch(16, draw)
        scores, _ = model(frames, torch.zeros(1, len(frames), 64))
        optimizer.zero_grad()
        F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=UNSURE).backward()
        optimizer.step()
        rates.step()
    pruner.finalize()
    return model.eval()


@torch.no_grad()
def accuracy(model: Tones) -> float:
    """In per cent of the frames that are one key or silence, of streams drawn anew."""
    frames, labels = batch(100, np.random.default_rng(1))
    right = model(frames, torch.zeros(1, len(frames), 64))[0].argmax(2) == labels
    return 100 * float(right[labels != UNSURE].float().mean())


def save_wav(path: Path, made: np.ndarray) -> None:
    """16 bits, one channel."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((made * 32767).astype("<i2").tobytes())


def main() -> None:
    """Train, save the program and a number to listen to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the files go")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = train(options.steps, options.sparsity)
    print(f"{accuracy(model):.2f}% of the frames are right, {options.sparsity:.0%} zeros")
    inputs = torch.zeros(1, 1, FRAME), torch.zeros(1, 1, 64)
    program = billhook.compile(model, inputs, standalone=True)
    billhook.save(program, options.out / "tones.billhook.safetensors")
    number = "0123456789*#"
    keys = [KEYS.index(key) for key in number]
    save_wav(options.out / "tones.wav", dialled(keys, np.random.default_rng(2))[0])
    print(f"{options.out / 'tones.wav'} dials {number}")


if __name__ == "__main__":
    main()
