"""What counts as a step of the training."""

import torch
from torch import optim
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import billhook
from billhook import Cubic

from .common import backward, mlp, train


def test_asking_for_the_optimizer_state_is_no_step_though_torch_takes_one() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)  # keeps no state, so torch makes some
    pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 2, 6, frequency=2))
    train(model, optimizer, 3)
    optimizer.zero_grad()
    get_optimizer_state_dict(model, optimizer)
    assert pruner.step_count == 3


def test_a_warm_up_step_at_learning_rate_zero_is_a_step() -> None:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    warm_up = optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)
    pruner = billhook.Pruner(model, optimizer, Cubic(0.8, 2, 6, frequency=2))
    for step in range(3):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        warm_up.step()
    assert pruner.step_count == 3
    assert torch.equal(model.get_parameter("0.weight").ne(0), pruner.masks["0.weight"])
