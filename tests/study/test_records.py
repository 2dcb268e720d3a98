"""Results survive as they come: rows alone continue a study, and test data are read once."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from billhook.cli.app import app
from billhook.errors import StateError
from billhook.study.grid import DENSE, Plan, Trial, plan
from billhook.study.records.rows import RunRow, rows_as_csv
from billhook.study.records.store import Store
from billhook.study.report.report import load_report
from billhook.study.run import attempt
from billhook.study.run.choice import groups
from billhook.study.run.trial import measure_test, run_trial
from billhook.study.run.workers import ATTEMPTS, run_trials
from billhook.study.spec import Study
from billhook.study.subject import Place
from tests.study.in_process import HERE, InProcess

RECORDS = "study.json", "rows.csv", "curves.csv", "layers.csv"


class StoppedError(BaseException):
    """In place of Ctrl-C."""


@pytest.fixture
def grid(tiny: Study) -> Plan:
    return plan(tiny)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """The trials whose test data were looked at."""
    seen: list[Trial] = []

    def measure(trial: Trial, folder: Path, place: Place) -> dict[str, float]:
        seen.append(trial)
        return measure_test(trial, folder, place)

    monkeypatch.setattr(attempt, "measure_test", measure)
    return seen


def begun(folder: Path, grid: Plan) -> Store:
    store = Store(folder)
    store.begin(grid.study)
    return store


def stop_after(count: int) -> Callable[[], None]:
    """Stops a study at its so many-th tick."""
    ticks = iter(range(count))

    def tick() -> None:
        if next(ticks, None) is None:
            raise StoppedError

    return tick


def test_a_study_continues_from_its_records_alone(
    grid: Plan, study_results: Path, tmp_path: Path, measured: list[Trial]
) -> None:
    first = begun(tmp_path / "first", grid)
    with pytest.raises(StoppedError):
        run_trials(first, grid, InProcess(first), stop_after(6))  # within the fourth group
    recorded = first.records.rows()
    assert len(recorded) == 6
    second = Store(tmp_path / "second")
    second.folder.mkdir()
    for name in RECORDS:
        shutil.copy(first.folder / name, second.folder)
    pool = InProcess(second)
    run_trials(second, grid, pool, lambda: None)
    assert {trial.identity for trial in pool.attempts}.isdisjoint(row.run for row in recorded)
    assert second.records.rows()[:2] == recorded[:2]
    for name in ("curves.csv", "layers.csv"):
        assert (second.folder / name).read_bytes() == (study_results / name).read_bytes()
    assert len(measured) == len(set(measured)) == len(groups(grid, second))


def test_the_first_seed_chooses_for_all(tiny: Study, tmp_path: Path, measured: list[Trial]) -> None:
    grid = plan(tiny.model_copy(update={"tune": "first-seed"}))
    store = begun(tmp_path, grid)
    assert {group.trials[0].seed for group in groups(grid, store)} == {0}
    with pytest.raises(StoppedError):
        run_trials(store, grid, InProcess(store), stop_after(4))  # between the seeds of an arm
    pool = InProcess(store)
    run_trials(store, grid, pool, lambda: None)
    rows = store.records.rows()
    # Three arms (large, small, pruned): two rates on the first seed, one on the second.
    assert len(rows) == 9 == grid.study.runs == len(grid.runs)
    assert Counter(row.seed for row in rows) == {0: 6, 1: 3}
    chosen = [(row.arm, row.learning_rate) for row in rows if row.chosen]
    assert sorted(chosen[:3]) == sorted(chosen[3:])
    assert len(measured) == len(set(measured)) == 6
    again = InProcess(store)
    run_trials(store, grid, again, lambda: None)
    assert again.attempts == []


def test_where_the_first_seed_chooses_nothing_the_others_are_not_waited_for(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = plan(tiny.model_copy(update={"tune": "first-seed"}))
    store = begun(tmp_path, grid)
    patched = lambda t, *rest: _failing(t.arm == DENSE, t, *rest)  # noqa: E731
    monkeypatch.setattr(attempt, "run_trial", patched)
    run_trials(store, grid, InProcess(store), lambda: None)
    assert len(store.records.rows()) == 8
    assert not load_report(store).partial
    status = CliRunner().invoke(app, ["study", "status", str(tmp_path)])
    assert "6 of 8 runs finished, 2 failed; 8 in rows.csv" in status.output


def test_finished_runs_of_a_billhook_that_recorded_at_the_end_are_taken_over(
    grid: Plan, study_results: Path, tmp_path: Path, measured: list[Trial]
) -> None:
    store = begun(tmp_path, grid)
    for trial in grid.trials[:5]:
        store.run_folder(trial).mkdir(parents=True)
        store.finish(trial, run_trial(trial, store.run_folder(trial), lambda _: None))
    pool = InProcess(store)
    run_trials(store, grid, pool, lambda: None)
    assert not {trial for trial in pool.attempts if trial not in measured} & set(grid.trials[:5])
    assert [row.test for row in store.records.rows()] == [
        row.test for row in Store(study_results).records.rows()
    ]
    assert len(measured) == len(groups(grid, store))


def test_killed_while_measuring_it_is_measured_again_and_recorded_once(
    grid: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = begun(tmp_path, grid)
    group = groups(grid, store)[0]
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "measure_test", _stop)
        with pytest.raises(StoppedError):
            run_trials(store, grid, InProcess(store), lambda: None)
    assert all(map(store.finished, group.trials))
    assert store.records.rows() == []
    chosen = group.untested(store)
    assert chosen is not None
    with store.take(chosen):  # another process is at it
        attempt.attempt(store, group, chosen, HERE)
    assert group.untested(store) == chosen
    run_trials(store, grid, InProcess(store), lambda: None)
    assert len(store.records.rows()) == 12


def test_a_network_that_fails_on_test_data_counts_as_failed(
    grid: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = begun(tmp_path, grid)
    group = groups(grid, store)[0]
    seen: list[Trial] = []

    def fail_first(trial: Trial, folder: Path, place: Place) -> dict[str, float]:
        seen.append(trial)
        if len(seen) == 1:
            raise ZeroDivisionError("theirs")
        return measure_test(trial, folder, place)

    monkeypatch.setattr(attempt, "measure_test", fail_first)
    run_trials(store, grid, InProcess(store), lambda: None)
    rows = {row.run: row for row in store.records.rows()}
    first, other = seen[0], next(trial for trial in group.trials if trial != seen[0])
    assert rows[first.identity].failure == "on test data: ZeroDivisionError: theirs"
    assert rows[other.identity].chosen


def test_a_retried_run_may_be_chosen_and_the_rest_is_not_measured_again(
    grid: Plan, tmp_path: Path, measured: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = begun(tmp_path, grid)
    best = {row.run for row in _finished(store, grid) if row.chosen}
    victim = next(trial for trial in grid.trials if trial.identity in best)
    shutil.rmtree(store.folder)
    begun(tmp_path, grid)
    measured.clear()
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "run_trial", lambda t, *rest: _failing(t == victim, t, *rest))
        run_trials(store, grid, InProcess(store), lambda: None)
    shutil.rmtree(store.folder / "runs")
    assert store.retry(grid.trials) == 1
    pool = InProcess(store)
    run_trials(store, grid, pool, lambda: None)
    assert pool.attempts == [victim]
    assert {row.run for row in store.records.rows() if row.chosen} == best
    assert len(measured) == len(set(measured)) == len(groups(grid, store)) + 1


def test_workers_that_die_measuring_fail_that_run_and_not_the_finished_ones(
    grid: Plan, tmp_path: Path
) -> None:
    store = begun(tmp_path, grid)
    group = groups(grid, store)[0]
    for trial in group.trials:
        store.run_folder(trial).mkdir(parents=True)
        store.finish(trial, run_trial(trial, store.run_folder(trial), lambda _: None))
    chosen = group.untested(store)
    pool = InProcess(store, lethal=chosen)
    run_trials(store, grid, pool, lambda: None)
    assert pool.attempts.count(chosen) == ATTEMPTS  # type: ignore[arg-type]
    assert [row.run for row in store.records.rows() if row.failure] == [chosen.identity]  # type: ignore[union-attr]


@pytest.mark.parametrize("count", range(1, 12))
def test_a_partial_study_is_reported_as_partial(
    count: int, study_results: Path, tmp_path: Path
) -> None:
    whole = Store(study_results)
    kept = [row for row in whole.records.rows() if row.seed == 0 or row.arm == DENSE][:count]
    groups_whole = {r.run for r in kept if any(c.chosen and _group(c) == _group(r) for c in kept)}
    for name in ("study.json", "curves.csv", "layers.csv"):
        shutil.copy(study_results / name, tmp_path)
    rows = [row for row in kept if row.run in groups_whole]
    (tmp_path / "rows.csv").write_text(rows_as_csv(rows))
    done = CliRunner().invoke(app, ["study", "report", str(tmp_path)])
    if not rows:
        assert isinstance(done.exception, StateError)
        return
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert f"Partial: {len(rows)} of 12 runs are finished" in said
    for name in ("report.md", "report.html"):
        assert f"Partial: {len(rows)} of 12 runs" in (tmp_path / name).read_text()
    status = CliRunner().invoke(app, ["study", "status", str(tmp_path)])
    assert f"{len(rows)} of 12 runs finished, {12 - len(rows)} waiting" in status.output


def test_nothing_to_report_yet(grid: Plan, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no rows to report yet"):
        load_report(begun(tmp_path, grid))


def _finished(store: Store, grid: Plan) -> list[RunRow]:
    run_trials(store, grid, InProcess(store), lambda: None)
    return store.records.rows()


def _group(row: RunRow) -> tuple[str, int, int]:
    return row.arm, row.point, row.seed


def _stop(*_: object) -> None:
    raise StoppedError


def _failing(fails: bool, trial: Trial, *rest: object) -> object:
    if fails:
        raise OSError("No space left on device")
    return run_trial(trial, *rest)  # type: ignore[arg-type]
