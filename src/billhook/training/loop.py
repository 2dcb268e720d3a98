"""The plain training loop all tasks share; everything it does is in :func:`train`.

A run is decided by its recipe, seed and data. Its folder holds ``checkpoint.pt`` (read back with
``weights_only=True``), ``metrics.csv``, TensorBoard logs, ``model.billhook.safetensors`` and,
written last, ``result.json``.
A run that is started again in its folder continues exactly where the checkpoint stands.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from billhook.allocation import Allocation, Uniform
from billhook.atomic import remove_leftovers, replacing
from billhook.errors import ConfigurationError, StateError
from billhook.falling import Alternating, Cyclic
from billhook.format import load, save
from billhook.format.codings import Encoding
from billhook.pruner import Pruner
from billhook.schedule import Cubic, OneShot, Polynomial, Schedule
from billhook.tasks.recipe import Recipe
from billhook.tasks.task import Task
from billhook.training.checkpoint import read_checkpoint
from billhook.training.log import TrainingLog
from billhook.training.optimizer import build_optimizer
from billhook.training.parts import CRITERIA, REGROWTH, granularity_of
from billhook.training.precision import full_precision
from billhook.training.weights import teacher_for

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = [
    "MODEL_FILE",
    "Sparsity",
    "pruning_schedule",
    "test_metrics",
    "train",
]

MODEL_FILE = "model.billhook.safetensors"
CHECK_EVERY = 50  # steps between looks at the loss
Watch = Callable[[int, float, dict[str, float | str]], None]
"""Called with step, sparsity and metrics after every evaluation."""


@dataclasses.dataclass(frozen=True)
class Sparsity:
    """What to prune to; the window in steps where it is not the recipe's; the paper's scheme."""

    final: float
    begin_step: int | None = None
    end_step: int | None = None
    allocation: Allocation = Uniform()


class Run:
    """A task under way: model, optimizer, pruner, moving average and the count of steps."""

    def __init__(
        self, task: Task, recipe: Recipe, sparsity: Sparsity | None, accelerator: "Accelerator"
    ) -> None:
        self.task, self.recipe, self.accelerator = task, recipe, accelerator
        self.step = 0
        self._evaluated: tuple[int, str, dict[str, float | str]] | None = None
        self.total_steps = recipe.total_steps(task.steps_per_epoch)
        decay = recipe.training.ema_decay
        self.average: AveragedModel | None = None
        if decay is not None:  # copied before accelerate wraps the model's forward
            self.average = AveragedModel(
                task.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
            )
        task.teacher = teacher_for(task, recipe)
        self.model: nn.Module = accelerator.prepare_model(task.model)
        self.optimizer = build_optimizer(self.model, recipe)
        self.pruner: Pruner | None = None
        if sparsity is not None:
            schedule = pruning_schedule(recipe, sparsity, self.total_steps)
            rules: Any = getattr(task.model, "prune_rules", None)
            self.pruner = Pruner(
                self.model,
                self.optimizer,
                schedule,
                criterion=CRITERIA[recipe.pruning.criterion],
                granularity=granularity_of(recipe.pruning.granularity),
                allocation=sparsity.allocation,
                rules=rules,
                regrow=REGROWTH[recipe.pruning.regrow],
            )

    def learning_rate(self) -> float:
        """Of the next step."""
        return self.recipe.learning_rate(self.step, self.task.steps_per_epoch)

    def train_step(self, batch: Any) -> torch.Tensor:
        """One optimizer step; the loss, detached."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        with self.accelerator.autocast():
            loss = self.task.loss(self.model, batch)
        self.accelerator.backward(loss)
        if self.recipe.training.clip_norm is not None:
            self.accelerator.clip_grad_norm_(
                self.model.parameters(), self.recipe.training.clip_norm
            )
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.task.model)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float | str]:
        """The task's metrics, of the moving average if the recipe has one; cached for each step."""
        if self._evaluated is None or self._evaluated[:2] != (self.step, split):
            with full_precision(self.task.model):
                metrics = self.task.evaluate(self.evaluated().eval(), split)
            self._evaluated = (self.step, split, metrics)
        return self._evaluated[2]

    def evaluated(self) -> nn.Module:
        """The model that counts: the moving average where the recipe has one, with our zeros."""
        if self.average is None:
            return self.task.model
        if self.pruner is not None:
            self.pruner.apply_to(self.average)
        return self.average.module

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on; every process has to call it."""
        from accelerate.utils import gather_object

        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "step": self.step,
            "model": self.task.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruner": None if self.pruner is None else self.pruner.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "task": self.task.state_dict(),
            "rng": gather_object([_random_state()]),  # of every process
        }

    def load_state_dict(self, state: dict[str, Any], source: Path) -> None:
        """Continue from :meth:`state_dict`.

        Raises:
            StateError: the checkpoint is of another recipe or number of processes, or pruned where
                this run is not.
        """
        ours, theirs = self.recipe.model_dump(mode="json"), state["recipe"]
        differing = [key for key in ours if ours[key] != theirs.get(key)]
        if differing:
            key = differing[0]
            raise StateError(
                f"{source} is of another recipe: {key} was {theirs.get(key)}, now {ours[key]}; "
                "give another --out, or the arguments of that run"
            )
        if (state["pruner"] is None) != (self.pruner is None):
            raise StateError(
                f"{source} is of a {'dense' if state['pruner'] is None else 'pruned'} run, this "
                "one is not: give another --out"
            )
        world = self.accelerator.num_processes
        if len(state["rng"]) != world:
            raise StateError(
                f"{source} is of a run of {len(state['rng'])} processes, this one has {world}: "
                "the random numbers would differ; use as many"
            )
        self.step = state["step"]
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.pruner is not None:
            self.pruner.load_state_dict(state["pruner"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.task.load_state_dict(state["task"])
        _set_random_state(state["rng"][self.accelerator.process_index])


def train(
    task: Task,
    recipe: Recipe,
    folder: Path,
    *,
    sparsity: Sparsity | None,
    accelerator: "Accelerator",
    console: Console,
    stop_after: int | None = None,
    tensorboard: bool = True,
    encoding: Encoding = "auto",
    watch: Watch | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """Train to the recipe's last step, from the folder's checkpoint where there is one.

    Args:
        task: model, data, loss, metric; its model is what gets trained.
        recipe: optimizer, learning rate, length and the rest.
        folder: where checkpoint, logs and result go; made if missing.
        sparsity: prune by eq. 1 to this, or None for a dense run.
        accelerator: accelerate's, which has device, precision and ranks.
        console: where progress is shown.
        stop_after: leave after this many steps of the whole run, with a checkpoint.
        tensorboard: write TensorBoard logs too.
        encoding: of the model file, as for :func:`billhook.save`.
        watch: called with step, sparsity and metrics after every evaluation.
        stop: asked after every step; once it says yes, the run leaves with a checkpoint.

    Returns:
        The result that is also in ``result.json``; None if stopped before the end.

    Raises:
        StateError: the folder holds a checkpoint of another run, or the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if accelerator.is_main_process:
        remove_leftovers(folder)
    run = Run(task, recipe, sparsity, accelerator)
    path = folder / "checkpoint.pt"
    noted = math.nan
    if path.exists():
        state = read_checkpoint(path)
        run.load_state_dict(state, path)
        noted = state.get("loss", math.nan)
        console.print(f"continuing from step {run.step} of {path}")
    log = TrainingLog(
        folder,
        console,
        (run.step, run.total_steps),
        main=accelerator.is_main_process,
        tensorboard=tensorboard,
    )
    log.loss = noted
    last = run.total_steps if stop_after is None else min(stop_after, run.total_steps)
    with log:
        for _ in _steps(run, log, last, stop, watch):
            _save(run, path, log.loss)
    return None if run.step < run.total_steps else _finish(run, folder, log.seconds, encoding)


def _steps(
    run: Run, log: TrainingLog, last: int, stop: Callable[[], bool], watch: Watch | None
) -> Iterator[None]:
    """Train to the step ``last`` or until told to stop; comes back wherever a checkpoint is due."""
    task, training = run.task, run.recipe.training
    every = max(1, round(training.evaluate_every * task.steps_per_epoch))
    saves, ended = training.checkpoint_every, run.step >= last
    while not ended:
        epoch, start = divmod(run.step, task.steps_per_epoch)
        for batch in task.batches(epoch, start, run.accelerator.device):
            rate = run.learning_rate()
            loss = run.train_step(batch)
            log.step(run.step, loss, rate, run.pruner)
            ended = run.step == last or stop()
            if run.step % CHECK_EVERY == 0 or ended:
                _check_finite(run.step, loss, rate)
            if run.step % every == 0 or run.step == run.total_steps:
                metrics = run.evaluate("valid")
                log.evaluation(run.step, metrics, rate, run.pruner)
                if watch is not None:
                    watch(run.step, log.sparsity, metrics)
            short = run.step == run.total_steps <= saves  # not worth a checkpoint
            if run.step % saves == 0 or (ended and not short):
                yield
            if ended:
                break


def test_metrics(task: Task, folder: Path, device: torch.device) -> dict[str, float | str]:
    """The test metrics of a finished run, of the model read back from its file."""
    task.model.load_state_dict(load(folder / MODEL_FILE))
    with torch.no_grad(), full_precision(task.model):
        return task.evaluate(task.model.to(device).eval(), "test")


test_metrics.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's


def _check_finite(step: int, loss: torch.Tensor, rate: float) -> None:
    if not math.isfinite(float(loss)):
        raise StateError(
            f"the loss is {float(loss)} at step {step}, learning rate {rate:.3g}: lower the "
            "learning rate, or clip gradients with clip_norm"
        )


def _finish(run: Run, folder: Path, seconds: float, encoding: Encoding) -> dict[str, Any]:
    report = None if run.pruner is None else run.pruner.finalize()
    model = run.evaluated().eval()
    parameters = list(model.parameters())
    result = {
        "family": run.recipe.family,
        "data": run.task.data_description,
        "steps": run.step,
        "seed": run.recipe.training.seed,
        "parameters": sum(p.numel() for p in parameters),
        "nonzero": sum(int(p.detach().count_nonzero()) for p in parameters),
        "sparsity_of_pruned": 0.0 if report is None else report.sparsity,
        "valid": run.evaluate("valid"),
        "minutes_this_session": seconds / 60,
        "torch": torch.__version__,
        "recipe": run.recipe.model_dump(mode="json"),
    }
    if run.accelerator.is_main_process:
        stored = save(model, folder / MODEL_FILE, encoding=encoding)
        result |= {"file_bytes": stored.stored_bytes, "dense_file_bytes": stored.dense_bytes}
        with replacing(folder / "result.json") as file:
            file.write((json.dumps(result, indent=1) + "\n").encode())
    return result


def _save(run: Run, path: Path, loss: float) -> None:
    """The checkpoint, whole or not at all; with the loss that the log shows."""
    state = run.state_dict() | {"loss": loss}
    if run.accelerator.is_main_process:
        with replacing(path) as file:
            torch.save(state, file)
    run.accelerator.wait_for_everyone()


def _random_state() -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def pruning_schedule(recipe: Recipe, sparsity: Sparsity, total_steps: int) -> Schedule:
    """The recipe's curve, eq. 1 mostly, over its window of the run or over one given in steps.

    The recipe's window ends on the last point of its grid of updates; a given one is kept, and has
    the recipe's number of updates or the next larger one that divides it.

    Raises:
        ConfigurationError: the window is empty or reaches beyond the run.
    """
    window = recipe.pruning
    begin = sparsity.begin_step
    begin = round(window.begin * total_steps) if begin is None else begin
    end = round(window.end * total_steps) if sparsity.end_step is None else sparsity.end_step
    if not begin < end <= total_steps:
        raise ConfigurationError(
            f"the pruning window is steps {begin} to {end}, the run has {total_steps}: "
            "it has to rise and to end within the run"
        )
    if window.curve == "one-shot":
        return OneShot(sparsity.final, end)
    interval = window.frequency or max(1, (end - begin) // window.updates)
    if sparsity.end_step is None:
        end = begin + (end - begin) // interval * interval
    else:
        interval = next(k for k in range(interval, 0, -1) if (end - begin) % k == 0)
    if window.curve == "linear":
        return Polynomial(sparsity.final, begin, end, frequency=interval, exponent=1.0)
    if window.curve == "constant":
        return OneShot(sparsity.final, begin, end, frequency=interval)
    if window.curve == "alternating":
        return Alternating(sparsity.final, begin, end, frequency=interval)
    if window.curve == "cyclic":  # two cycles of as many updates, both ends of the window included
        count = max(3, (end - begin) // interval)
        return Cyclic(sparsity.final, begin, end, num_updates=count - 1 + count % 2)
    return Cubic(sparsity.final, begin, end, frequency=interval)
