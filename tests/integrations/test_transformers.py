import copy
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from billhook import Cubic, OneShot, Pruner
from billhook.distillation import Teacher, distillation_loss
from billhook.errors import ConfigurationError, StateError
from billhook.integrations.transformers import PRUNER_NAME, DistillingTrainer, PruningCallback
from tests.integrations.conftest import (
    assert_same_optimizer,
    assert_same_weights,
    run_until_killed,
)

SCHEDULE = Cubic(0.8, 2, 17, frequency=3)
STEPS = 24


def _model(dropout: float) -> Any:
    set_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        attention_dropout=dropout,
    )
    return LlamaForCausalLM(config)


def _data() -> list[dict[str, torch.Tensor]]:
    rows = torch.randint(0, 11, (40, 6), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in rows]


def _sparsity(model: nn.Module) -> float:
    weights = [p for p in model.parameters() if p.dim() == 2]
    return sum(int(p.eq(0).sum()) for p in weights) / sum(p.numel() for p in weights)


class Scored(Trainer):
    """A model's score is its sparsity, and the lower the better: the densest model would win."""

    score = staticmethod(_sparsity)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        model: Any = self.model
        metrics = {"eval_score": type(self).score(model)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class Kill(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def _trainer(
    folder: Path | str, *callbacks: TrainerCallback, dropout: float = 0.0, **arguments: Any
) -> Any:
    common: dict[str, Any] = {
        "max_steps": STEPS,
        "save_strategy": "no",
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    args = TrainingArguments(str(folder), **(common | arguments))
    data: Any = _data()
    return Scored(_model(dropout), args, None, data, data, callbacks=list(callbacks))


def train(folder: str, kill: int = 0, resume: str | None = None) -> tuple[Any, Pruner]:
    pruning = PruningCallback(SCHEDULE)
    saving = {"save_strategy": "steps", "save_steps": 5}
    trainer = _trainer(folder, Kill(kill), pruning, dropout=0.1, **saving)
    trainer.train(resume_from_checkpoint=resume)
    assert pruning.pruner is not None
    return trainer, pruning.pruner


def test_a_killed_run_resumes_to_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    run_until_killed(f"tests.integrations.test_transformers:train({str(tmp_path)!r}, kill=13)")
    last = tmp_path / "checkpoint-10"
    trainer, pruner = train(str(tmp_path), resume=str(last))
    expected, uninterrupted = train(str(tmp_path / "uninterrupted"))
    assert pruner.step_count == trainer.state.global_step == STEPS
    assert_same_weights(trainer.model, expected.model)
    assert_same_optimizer(trainer.optimizer, expected.optimizer)
    masks = uninterrupted.masks
    assert all(torch.equal(mask, masks[name]) for name, mask in pruner.masks.items())
    assert pruner.report().sparsity == pytest.approx(0.8, abs=0.01)
    assert _sparsity(trainer.model) == pytest.approx(0.8, abs=0.01)


def test_accumulation_and_clipping_equal_the_loop_written_out(tmp_path: Path) -> None:
    pruning = PruningCallback(SCHEDULE, regrow=False)
    trainer = _trainer(
        tmp_path,
        pruning,
        gradient_accumulation_steps=2,
        max_grad_norm=0.1,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
    )
    trainer.train()

    model = _model(dropout=0.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0, fused=True)
    pruner = Pruner(model, optimizer, SCHEDULE, regrow=False)
    rows = torch.stack([row["input_ids"] for row in _data()]).view(5, 2, 4, 6)
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in rows[step % 5]:
            model(input_ids=part, labels=part, num_items_in_batch=torch.tensor(40)).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    assert pruning.pruner is not None
    assert pruning.pruner.step_count == pruner.step_count == STEPS
    assert_same_weights(trainer.model, model)


def test_sparsity_is_logged(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, PruningCallback(SCHEDULE), logging_steps=1)
    trainer.train()
    logged = {row["step"]: row["sparsity"] for row in trainer.state.log_history}
    assert logged.keys() == set(range(1, STEPS + 1))
    assert all(value == pytest.approx(SCHEDULE(step), abs=0.01) for step, value in logged.items())


class Stop(TrainerCallback):
    """Ends a run early, as early stopping does, or with an exception."""

    def __init__(self, step: int, error: BaseException | None = None) -> None:
        self.step, self.error = step, error

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == self.step:
            control.should_training_stop = True
            if self.error is not None:
                raise self.error


def test_a_run_that_ends_too_soon_says_what_it_reached(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"12 of the 17 .* are 7\d.\d\d% sparse, not 80.00%"):
        _trainer(tmp_path, PruningCallback(SCHEDULE), Stop(12)).train()


def test_a_window_beyond_the_run_is_refused_before_the_first_step(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, PruningCallback(SCHEDULE), max_steps=12)
    with pytest.raises(ConfigurationError, match="run ends at step 12, .* end_step is 17.*step=9"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_an_exception_leaves_the_model_free_for_another_run(
    tmp_path: Path, said: list[str]
) -> None:
    interrupted = _trainer(tmp_path, PruningCallback(SCHEDULE), Stop(9, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    trainer = _trainer(tmp_path, PruningCallback(OneShot(0.9, 2)))
    trainer.model = interrupted.model
    with pytest.warns(UserWarning, match="are zero but not masked"):
        trainer.train()
    assert "an earlier run on these weights stopped at step 9: its pruner is detached" in said
    assert _sparsity(trainer.model) == pytest.approx(0.9, abs=0.01)


def test_two_callbacks_of_one_run_do_not_take_weights_from_each_other(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, PruningCallback(SCHEDULE), PruningCallback(OneShot(0.5)))
    with pytest.raises(StateError, match="is held by another Pruner"):
        trainer.train()


def test_two_callbacks_with_rules_of_their_own_save_two_states(tmp_path: Path) -> None:
    def callbacks() -> list[PruningCallback]:
        first = PruningCallback(SCHEDULE, rules={"*mlp*": None})
        names = [f"model.layers.0.mlp.{part}_proj" for part in ("gate", "up", "down")]
        attention = [f"model.layers.0.self_attn.{part}_proj" for part in "qkvo"]
        others: Any = dict.fromkeys([*attention, "model.embed_tokens"])
        return [first, PruningCallback(OneShot(0.5, 5), rules=others | dict.fromkeys(names, 0.5))]

    trainer = _trainer(tmp_path, *callbacks(), save_strategy="steps", save_steps=10)
    trainer.train()
    assert (tmp_path / "checkpoint-10" / "pruner2.pt").exists()
    second = callbacks()
    resumed = _trainer(tmp_path, *second)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert_same_weights(resumed.model, trainer.model)
    assert all(each.pruner is not None and each.pruner.step_count == STEPS for each in second)


def _best(folder: Path, *callbacks: TrainerCallback, resume: bool = False, **arguments: Any) -> Any:
    trainer = _trainer(
        folder,
        PruningCallback(SCHEDULE),
        *callbacks,
        eval_strategy="steps",
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=False,
        **arguments,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("strategy", ["steps", "best"])
def test_no_dense_model_is_the_best_one(tmp_path: Path, said: list[str], strategy: str) -> None:
    trainer = _best(tmp_path, eval_steps=2, save_strategy=strategy, save_steps=2)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-18")
    assert trainer.state.best_metric == pytest.approx(0.8, abs=0.01)
    assert _sparsity(trainer.model) == pytest.approx(0.8, abs=0.01)
    assert "the best model so far (step 2, metric 0.0) is from before it and forgotten" in said[-1]


def test_no_score_since_end_step_leaves_the_last_model(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scored, "score", lambda model: float("nan") if _sparsity(model) else 0.0)
    trainer = _best(tmp_path, eval_steps=2, save_strategy="best")
    assert trainer.state.best_model_checkpoint is None
    assert _sparsity(trainer.model) == pytest.approx(0.8, abs=0.01)
    assert "nothing was evaluated and saved since end_step 17" in said[-1]


def test_a_dense_best_model_is_forgotten_over_a_resume(tmp_path: Path) -> None:
    saving: dict[str, Any] = {"eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(StateError, match="8 of the 17"):
        _best(tmp_path, Stop(8), **saving)
    trainer = _best(tmp_path, **saving, resume=True)
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-18")


def test_a_checkpoint_without_or_with_foreign_masks_is_refused(tmp_path: Path) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 10, "max_steps": 10}
    _trainer(tmp_path, **saving).train()
    with pytest.raises(StateError, match=r"at step 10, but there is no pruner state '.*pruner.pt'"):
        _trainer(tmp_path, PruningCallback(SCHEDULE)).train(resume_from_checkpoint=True)

    del saving["max_steps"]
    with pytest.raises(StateError, match="not over"):
        _trainer(tmp_path / "other", PruningCallback(SCHEDULE), Stop(10), **saving).train()
    other = tmp_path / "other" / "checkpoint-10" / PRUNER_NAME
    elsewhere = _trainer(tmp_path / "new", PruningCallback(SCHEDULE))
    with pytest.raises(StateError, match=r"resume_from_checkpoint=...\) if it is not in"):
        elsewhere.train(resume_from_checkpoint=str(other.parent))
    elsewhere.args.resume_from_checkpoint = str(other.parent)
    elsewhere.train(resume_from_checkpoint=str(other.parent))

    (tmp_path / "checkpoint-10" / PRUNER_NAME).write_bytes(other.read_bytes())
    with pytest.raises(
        StateError, match=r"\d+ weights of 'model.embed_tokens.weight' were not zero"
    ):
        _trainer(tmp_path, PruningCallback(SCHEDULE)).train(resume_from_checkpoint=True)
    with pytest.raises(StateError, match="schedule was 'Cubic.*0.8.*is 'OneShot"):
        _trainer(tmp_path / "other", PruningCallback(OneShot(0.5))).train(
            resume_from_checkpoint=True
        )
    saved = torch.load(other) | {"step": 9}
    torch.save(saved, other)
    with pytest.raises(StateError, match="at step 10, the pruner state .* is of step 9"):
        _trainer(tmp_path / "other", PruningCallback(SCHEDULE)).train(resume_from_checkpoint=True)


def test_training_again_is_a_new_run(tmp_path: Path) -> None:
    pruning = PruningCallback(SCHEDULE)
    trainer = _trainer(tmp_path, pruning)
    trainer.train()
    first = pruning.pruner
    with pytest.warns(UserWarning, match="are zero but not masked"):
        trainer.train()
    assert pruning.pruner is not first
    assert pruning.pruner is not None
    assert pruning.pruner.step_count == STEPS
    assert _sparsity(trainer.model) == pytest.approx(0.8, abs=0.01)


def test_what_it_cannot_do_is_refused() -> None:
    options: Any = {"granularty": None}
    with pytest.raises(TypeError, match="unexpected keyword argument 'granularty'"):
        PruningCallback(SCHEDULE, **options)
    searching = TrainerState(is_hyper_param_search=True)
    arguments: Any = None, searching, None
    with pytest.raises(ConfigurationError, match="hyperparameter search"):
        PruningCallback(SCHEDULE).on_train_begin(*arguments)


class Recorded(DistillingTrainer):
    """Keeps the gradients of every optimizer step."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.gradients: list[Tensor] = []

    def _clip_grad_norm(self, model: nn.Module) -> None:
        found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(found).clone())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_teacher_has_its_share_of_the_loss(accumulate: int, tmp_path: Path) -> None:
    """The gradient of one step is that of the equation over all tokens of its micro-batches."""
    torch.manual_seed(1)
    student, dense = _model(0.0), _model(0.0)
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    rows = _data()[: 2 * accumulate]
    for index, row in enumerate(rows):  # batches of different numbers of labels
        row["labels"] = row["labels"].clone()
        row["labels"][: index % 4] = -100
    args = TrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulate,
        max_grad_norm=1.0,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    teacher = Teacher(dense, hardness=0.7, temperature=3.0)
    data: Any = rows
    trainer = Recorded(student, args, None, data, data, teacher=teacher)
    alone = copy.deepcopy(student)
    evaluated = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert not any(parameter.requires_grad for parameter in dense.parameters())

    inputs = torch.stack([row["input_ids"] for row in rows])
    labels = torch.stack([row["labels"] for row in rows])[:, 1:]
    ours, theirs = alone(input_ids=inputs).logits[:, :-1], dense(input_ids=inputs).logits[:, :-1]
    distillation_loss(ours, theirs, labels, 0.7, 3.0).backward()
    found = [p.grad.flatten() for p in alone.parameters() if p.grad is not None]
    torch.testing.assert_close(trainer.gradients[0], torch.cat(found), rtol=1e-4, atol=1e-6)
    hard = nn.functional.cross_entropy(ours.flatten(0, 1), labels.flatten(), ignore_index=-100)
    if accumulate == 1:  # else the Trainer's mean of the batches' means
        assert evaluated == pytest.approx(hard.item(), rel=1e-4)


def test_a_pruned_student_learns_from_its_dense_teacher(tmp_path: Path) -> None:
    pruning, dense = PruningCallback(SCHEDULE), _model(0.0)
    before = [parameter.clone() for parameter in dense.parameters()]
    args = TrainingArguments(
        str(tmp_path), max_steps=STEPS, save_strategy="no", report_to="none", use_cpu=True
    )
    data: Any = _data()
    trainer = DistillingTrainer(
        _model(0.1), args, None, data, callbacks=[pruning], teacher=Teacher(dense)
    )
    trainer.train()
    assert trainer.model is not None
    assert _sparsity(trainer.model) == pytest.approx(0.8, abs=0.01)
    assert all(map(torch.equal, before, dense.parameters()))
