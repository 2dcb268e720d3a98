"""A network of your own in a study: one function of a width, and six lines in own_study.toml.

    billhook study plan examples/own_study.toml
    billhook study run examples/own_study.toml --data FOLDER

Without ``--data`` it learns scikit-learn's digits.
"""

from torch import nn


def network(width: float) -> nn.Module:
    """Pictures ``(N, 3, H, W)`` to 10 logits, with ``width`` and twice as many channels."""
    channels = int(width)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * channels, 10),
    )
