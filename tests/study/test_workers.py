"""Workers that die, runs that fail: the study goes on, loses nothing, and says what happened."""

import dataclasses
import errno
import io
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from billhook.study.grid import Plan, Trial, plan
from billhook.study.records.rows import parse_rows, rows_as_csv
from billhook.study.records.store import Store
from billhook.study.run.progress import print_status
from billhook.study.run.trial import run_trial
from billhook.study.run.workers import ATTEMPTS, LocalPool, run_trials
from billhook.study.spec import Study
from billhook.study.subject import Place
from tests.study.in_process import HERE, InProcess


def long(trial: Trial, steps: int) -> Trial:
    """The trial with many steps and checkpoints, long enough to be killed in."""
    training = {"steps": steps, "checkpoint_every": 50}
    return Trial(
        **{name: getattr(trial, name) for name in trial.__dataclass_fields__}
        | {"recipe": trial.recipe.changed(training=training), "steps": steps}
    )


def of(plan: Plan, *trials: Trial) -> Plan:
    """The plan of these trials alone."""
    return dataclasses.replace(plan, trials=trials)


def kill_at_checkpoint(store: Store, trial: Trial) -> threading.Thread:
    """Kill the process that runs ``trial`` once it has written a checkpoint."""

    def wait_and_kill() -> None:
        checkpoint = store.run_folder(trial) / "checkpoint.pt"
        while not checkpoint.exists() or (seen := store.heartbeat(trial)) is None:
            time.sleep(0.005)
        os.kill(seen.pid, signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


def test_a_killed_worker_s_run_is_taken_over_and_ends_the_same(tiny: Study, tmp_path: Path) -> None:
    grid = plan(tiny)
    trial = long(next(t for t in grid.trials if t.scheme), 2_000)
    store, whole = Store(tmp_path / "killed"), Store(tmp_path / "whole")
    pool = LocalPool(store, 1, HERE)
    killer = kill_at_checkpoint(store, trial)
    run_trials(store, of(grid, trial), pool, lambda: None)
    pool.close()
    assert not killer.is_alive()  # it did kill one
    pool = LocalPool(whole, 1, HERE)
    run_trials(whole, of(grid, trial), pool, lambda: None)
    pool.close()
    name = "model.billhook.safetensors"
    files = [(s.run_folder(trial) / name).read_bytes() for s in (store, whole)]
    assert files[0] == files[1]
    ended = [s.outcome(trial) for s in (store, whole)]
    assert ended[0] is not None
    assert ended[1] is not None
    assert ended[0].validation == ended[1].validation
    assert not (store.run_folder(trial) / "checkpoint.pt").exists()


def test_a_trial_that_kills_every_worker_fails_and_the_others_run(
    tiny: Study, tmp_path: Path
) -> None:
    grid, store = plan(tiny), Store(tmp_path)
    trials = grid.trials[:2]
    pool = InProcess(store, lethal=trials[0])
    run_trials(store, of(grid, *trials), pool, lambda: None)
    assert pool.attempts == [trials[0]] * ATTEMPTS + [trials[1]]
    assert "3 workers died at it" in (store.failure(trials[0]) or "")
    assert store.finished(trials[1])


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ZeroDivisionError("theirs")]
)
def test_a_failed_run_is_recorded_skipped_and_retried(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    grid, store = plan(tiny), Store(tmp_path)
    store.begin(grid.study)
    broken = grid.trials[0]

    def run(trial: Trial, folder: Path, report: object, place: Place) -> object:
        if trial == broken:
            raise error
        return run_trial(trial, folder, lambda _: None, place)

    monkeypatch.setattr("billhook.study.run.attempt.run_trial", run)
    run_trials(store, grid, InProcess(store), lambda: None)
    assert store.failure(broken) == f"{type(error).__name__}: {error}"
    rows = store.records.rows()
    assert parse_rows(rows_as_csv(rows), "rows.csv") == rows
    assert [row.run for row in rows if row.failure] == [broken.identity]
    rival = next(t for t in grid.trials if t.group == broken.group and t != broken)
    assert next(row for row in rows if row.run == rival.identity).chosen
    console = Console(width=200, file=io.StringIO())
    print_status(console, store)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{len(grid.trials) - 1} of {len(grid.trials)} runs finished, 1 failed" in said
    assert str(error) in said
    assert "--retry-failed" in said

    monkeypatch.undo()
    pool = InProcess(store)
    assert store.retry(grid.trials) == 1
    run_trials(store, grid, pool, lambda: None)
    assert pool.attempts == [broken]
    assert not any(row.failure for row in store.records.rows())
