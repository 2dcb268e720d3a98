"""The study as its user meets it: killed and continued, finished, run twice at the same time."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from billhook.cli.app import app
from billhook.study.grid import plan
from billhook.study.records.store import Store
from billhook.study.spec import Study

CLI = [sys.executable, "-W", "error", "-c", "from billhook.cli.app import main; main()", "study"]
WORKER = """
import sys
from pathlib import Path
from billhook.study.run import attempt
from billhook.study.subject import Place
from billhook.study.grid import plan
from billhook.study.spec import load_study
from billhook.study.records.store import Store
from billhook.study.run.workers import run_trials, settle_in
from tests.study.in_process import InProcess

real = attempt.run_trial
def run_trial(trial, *rest):
    with open(sys.argv[3], "a") as log:
        log.write(trial.identity + chr(10))
    return real(trial, *rest)
attempt.run_trial = run_trial
settle_in()
store = Store(Path(sys.argv[2]))
run_trials(store, plan(load_study(sys.argv[1])), InProcess(store), lambda: None)
"""


def run_study(file: Path, results: Path) -> "subprocess.CompletedProcess[str]":
    command = [*CLI, "run", str(file), "--results", str(results), "--workers", "1"]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def finished(study_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copied") / "results"
    return Path(shutil.copytree(study_results, folder))


def test_killed_in_the_middle_and_run_again_gives_the_same_rows(
    tiny: Study, tiny_file: Path, finished: Path, tmp_path: Path
) -> None:
    store, trials = Store(tmp_path / "results"), plan(tiny).trials
    command = [*CLI, "run", str(tiny_file), "--results", str(store.folder), "--workers", "1"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    while not any(map(store.finished, trials)):
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)  # the command and its worker, whatever they are doing
    process.wait()
    kept = {trial: store.outcome(trial) for trial in trials if store.finished(trial)}
    assert 0 < len(kept) < len(trials)
    assert len(store.records.rows()) < len(trials)
    marker = store.folder / "runs" / next(iter(kept)).identity / "outcome.json"
    before = marker.stat().st_mtime_ns
    run_study(tiny_file, store.folder)
    assert marker.stat().st_mtime_ns == before  # what was finished was not run again
    for name in ("comparison.csv", "curves.csv", "layers.csv"):
        assert (store.folder / name).read_bytes() == (finished / name).read_bytes()
    rows, expected = store.records.rows(), Store(finished).records.rows()
    assert [dataclasses.replace(row, seconds=0.0) for row in rows] == [
        dataclasses.replace(row, seconds=0.0) for row in expected
    ]


def test_a_finished_study_answers_without_training(
    tiny_file: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a finished study must not train")

    monkeypatch.setattr("billhook.study.run.workers.run_trials", refuse)
    rows = (finished / "rows.csv").read_bytes()
    result = CliRunner().invoke(app, ["study", "run", str(tiny_file), "--results", str(finished)])
    assert result.exit_code == 0, result.output
    assert "Accuracy:" in result.output
    assert (finished / "rows.csv").read_bytes() == rows


def test_report_needs_the_rows_alone(finished: Path, tmp_path: Path) -> None:
    for name in {"study.json", "rows.csv", "latency.csv"} & {f.name for f in finished.iterdir()}:
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    result = CliRunner().invoke(app, ["study", "report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for name in ("comparison.csv", "report.md"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    status = CliRunner().invoke(app, ["study", "status", str(tmp_path)])
    assert "12 of 12 runs finished; 12 in rows.csv" in status.output


def test_two_processes_share_the_runs_and_duplicate_none(
    tiny: Study, tiny_file: Path, tmp_path: Path
) -> None:
    log, store, trials = tmp_path / "log", Store(tmp_path / "results"), plan(tiny).trials
    command = [sys.executable, "-c", WORKER, str(tiny_file), str(store.folder), str(log)]
    for process in [subprocess.Popen(command) for _ in range(2)]:
        assert process.wait() == 0  # each leaves only when everything is finished
    assert all(map(store.finished, trials))
    assert Counter(log.read_text().split()) == Counter(trial.identity for trial in trials)
