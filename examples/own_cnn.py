"""A network of your own through the whole chain: train and prune it, store it, run it.

    python examples/own_cnn.py                # scikit-learn's digits, half a minute
    python examples/own_cnn.py --data FOLDER  # MNIST or Fashion-MNIST: a folder of IDX files

It trains the same network twice, dense and pruned to 90% zeros, and shows both beside each other:
accuracy on test data, bytes of the file, milliseconds for one picture.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import billhook
from billhook.bench.measure import Result, bench
from billhook.bench.memory import with_steady_memory

SPARSITY = 0.9


@dataclasses.dataclass(frozen=True)
class Data:
    """Grey pictures ``(N, 1, H, W)`` in [0, 1] and their labels, for training and for testing."""

    name: str
    train: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    epochs: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One arm: accuracy in per cent, bytes of its file, times of one picture."""

    accuracy: float
    parameters: int
    nonzero: int
    file_bytes: int
    times: Result


def digits(epochs: int) -> Data:
    """1,797 digits of 8 x 8 pixels, a fifth of them for testing."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    x = torch.tensor(pictures, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, train = order[:360], order[360:]
    return Data("scikit-learn's digits", (x[train], y[train]), (x[test], y[test]), epochs)


def from_folder(folder: Path, epochs: int) -> Data:
    """Pictures in MNIST's format."""
    from billhook.data.idx import load

    data = load(folder)
    train, test = (
        (images.pictures.float() / 255, images.labels) for images in (data.train, data.test)
    )
    return Data(data.description, train, test, epochs)


def network() -> nn.Sequential:
    """Grey pictures of any size to ten logits; 540,000 weights."""

    def layer(channels: int, outputs: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *layer(1, 32, 1),
        *layer(32, 64, 2),
        *layer(64, 128, 2),
        *layer(128, 128, 1),
        *layer(128, 256, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


def train(data: Data, sparsity: float | None) -> nn.Sequential:
    """The training loop that you have already; pruning adds the lines with ``pruner``."""
    torch.manual_seed(0)
    x, y = data.train
    batch = 64
    steps = len(x) // batch * data.epochs
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    pruner = None
    if sparsity is not None:
        schedule = billhook.Cubic.over(steps, final_sparsity=sparsity)
        rules = {"0": None}  # the first layer is small and sees the picture: it stays dense
        pruner = billhook.Pruner(model, optimizer, schedule, rules=rules)
    for _ in range(data.epochs):
        for rows in torch.randperm(len(x))[: len(x) // batch * batch].split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            rates.step()
    if pruner is not None:
        pruner.finalize()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """In per cent, on test data."""
    x, y = data.test
    right = sum(
        int((model(part).argmax(1) == labels).sum())
        for part, labels in zip(x.split(500), y.split(500), strict=True)
    )
    return 100 * right / len(y)


def measure(
    model: nn.Module, data: Data, path: Path, threads: int = 1, peers: tuple[str, ...] = ("eager",)
) -> Outcome:
    """Store the model, open the file, compile what is in it, and look at that."""
    report = billhook.save(model, path)
    opened = network().eval()
    opened.load_state_dict(billhook.load(path))
    picture = data.test[0][:1]
    times = bench("one picture", opened, (picture,), threads=threads, peers=peers)
    parameters = list(opened.parameters())
    return Outcome(
        accuracy(times.compiled, data),
        sum(each.numel() for each in parameters),
        sum(int(each.count_nonzero()) for each in parameters),
        report.stored_bytes,
        times,
    )


def chain(data: Data, folder: Path, peers: tuple[str, ...] = ("eager",)) -> list[Outcome]:
    """The network dense, then pruned."""
    outcomes = []
    for name, sparsity in (("dense", None), ("sparse", SPARSITY)):
        model = train(data, sparsity)
        path = folder / f"own_cnn-{name}.billhook.safetensors"
        outcomes.append(measure(model, data, path, peers=peers))
    return outcomes


def main() -> None:
    """Train both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of IDX files")
    parser.add_argument("--epochs", type=int, help="passes over the data; 30, or 3 over --data")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="where the files go")
    options = parser.parse_args()
    with_steady_memory()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.data is None:
        data = digits(options.epochs or 30)
    else:
        data = from_folder(options.data, options.epochs or 3)
    dense, sparse = chain(data, options.out)
    torch_ms, fast_ms = dense.times.best("eager"), sparse.times.best("billhook")
    print(f"One network, trained twice on {data.name}:")
    print(f"{'':<26}{'dense':>14}{'90% zeros':>14}")
    for what, first, second in (
        ("weights that are not zero", f"{dense.nonzero:,}", f"{sparse.nonzero:,}"),
        ("test accuracy, %", f"{dense.accuracy:.2f}", f"{sparse.accuracy:.2f}"),
        ("bytes of the file", f"{dense.file_bytes:,}", f"{sparse.file_bytes:,}"),
        ("torch, ms", f"{torch_ms:.3f}", f"{sparse.times.best('eager'):.3f}"),
        ("billhook.compile, ms", f"{dense.times.best('billhook'):.3f}", f"{fast_ms:.3f}"),
    ):
        print(f"{what:<26}{first:>14}{second:>14}")
    print(
        f"So: {dense.file_bytes / sparse.file_bytes:.1f} times smaller, {torch_ms / fast_ms:.1f} "
        f"times as fast as dense in torch, {sparse.accuracy - dense.accuracy:+.2f} points."
    )


if __name__ == "__main__":
    main()
