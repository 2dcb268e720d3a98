"""Nothing half written counts, a trial has one taker, and a folder holds one study."""

import json
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import billhook
from billhook.errors import ConfigurationError, FormatError
from billhook.study.grid import Trial, plan
from billhook.study.records.rows import RunRow, parse_rows, rows_as_csv
from billhook.study.records.store import Store
from billhook.study.spec import Study
from tests.study.outcomes import outcome

OUTCOME = outcome({"accuracy": 2 / 3, "cross_entropy": 0.1})


def _hold(folder: Path, trial: Trial, connection: Connection) -> None:
    with Store(folder).take(trial) as mine:
        connection.send(mine)
        connection.recv()  # until killed


def test_a_trial_is_finished_once_its_outcome_is_there(tiny: Study, tmp_path: Path) -> None:
    store, trial = Store(tmp_path), plan(tiny).trials[0]
    with store.take(trial) as mine:
        assert mine
        (store.run_folder(trial) / "model.billhook.safetensors").write_bytes(b"half")
    assert not store.finished(trial)  # as after a kill: the next one takes it
    with store.take(trial) as mine:
        assert mine
        store.finish(trial, OUTCOME)
    assert store.outcome(trial) == OUTCOME
    assert store.settled(trial)


def test_two_processes_never_hold_one_trial_and_a_kill_frees_it(
    tiny: Study, tmp_path: Path
) -> None:
    store, trial = Store(tmp_path), plan(tiny).trials[0]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    holder = context.Process(target=_hold, args=(tmp_path, trial, theirs))
    holder.start()
    try:
        assert ours.recv()
        with store.take(trial) as mine:
            assert not mine
    finally:
        holder.kill()
        holder.join()
    with store.take(trial) as mine:
        assert mine


def test_a_folder_holds_one_study(tiny: Study, tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    store.begin(tiny)
    store.begin(tiny)
    assert store.study() == tiny
    with pytest.raises(ConfigurationError, match=r"holds another study \(seeds differ\)"):
        store.begin(tiny.model_copy(update={"seeds": (0, 1, 2)}))


def test_a_folder_of_another_billhook(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path).begin(tiny)
    monkeypatch.setattr(billhook, "__version__", "99.0")
    with pytest.raises(ConfigurationError, match=r"begun with billhook .*, this is 99\.0"):
        Store(tmp_path).begin(tiny)


def test_a_folder_of_something_else(tiny: Study, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigurationError, match="not empty and holds no study"):
        Store(tmp_path).begin(tiny)
    with pytest.raises(ConfigurationError, match="holds no study"):
        Store(tmp_path).study()


@pytest.mark.parametrize("text", ["{", "{}", json.dumps({"study": {}, "provenance": {}})])
def test_a_damaged_study_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(FormatError, match="damaged"):
        Store(tmp_path).study()


def test_provenance_names_no_host_and_no_path(tiny: Study, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin(tiny)
    text = (tmp_path / "study.json").read_text()
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert "/" not in json.dumps(store.provenance())


def test_rows_survive_csv_bit_for_bit(tiny: Study) -> None:
    trials = plan(tiny).trials
    test = {"accuracy": 1 / 3, "cross_entropy": 1e-17}
    rows = [RunRow.of(trial, OUTCOME, test if i % 2 else None) for i, trial in enumerate(trials)]
    rows[0] = RunRow.of(trials[0], None, failure="the loss is nan at step 7, says\nthe loop")
    assert parse_rows(rows_as_csv(rows), "rows.csv") == rows


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "run,chosen\nx,yes\n"])
def test_rows_that_are_not_ours(text: str) -> None:
    with pytest.raises(FormatError, match=r"rows\.csv is not the rows\.csv of a study"):
        parse_rows(text, "rows.csv")
