"""Weights in fewer bits: measured once from the files, compared at equal quality, kept."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import billhook
from billhook.cli.app import app
from billhook.study.analysis.rounded import FULL, rounded
from billhook.study.grid import Plan, plan
from billhook.study.records.details import read_values
from billhook.study.records.rows import rows_as_csv
from billhook.study.records.store import Store
from billhook.study.report.report import load_report
from billhook.study.run.rounded import measure_values
from billhook.study.sizes import encoding_of
from billhook.study.spec import Study, load_study
from billhook.training.loop import MODEL_FILE
from tests.study.in_process import HERE

KINDS = "fp16", "int8"


@pytest.fixture(scope="module")
def grid(tiny: Study) -> Plan:
    return plan(tiny.model_copy(update={"values": KINDS}))


@pytest.fixture(scope="module")
def store(grid: Plan, study_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("rounded") / "results"
    shutil.copytree(study_results, folder)
    store = Store(folder)
    store.begin(grid.study)  # only what is measured at the end differs
    assert store.study().values == KINDS
    chosen = [row for row in store.records.rows() if row.chosen]
    assert measure_values(store, grid, HERE) == len(KINDS) * len(chosen)
    return store


def test_every_chosen_network_is_stored_and_tested_in_every_kind(
    grid: Plan, store: Store, tmp_path: Path
) -> None:
    metrics = [metric.name for metric in grid.study.metrics]
    lines = read_values(store.folder, metrics)
    trials = {trial.identity: trial for trial in grid.trials}
    for line in lines:
        trial, file = trials[line["run"]], tmp_path / "again.billhook.safetensors"
        tensors = billhook.load(store.run_folder(trial) / MODEL_FILE)
        stored = {"fp16": "F16", "int8": "I8"}[line["values"]]
        billhook.save(tensors, file, encoding=encoding_of(trial.codings), values=stored)
        assert int(line["bytes"]) == file.stat().st_size
        row = store.records.by_run()[line["run"]]
        assert int(line["bytes"]) < row.bytes
        assert float(line["accuracy"]) == pytest.approx(row.test["accuracy"], abs=0.03)
    assert measure_values(store, grid, HERE) == 0


def test_the_report_compares_them_at_equal_quality(store: Store) -> None:
    report = load_report(store)
    kinds = rounded(report.rows, report.values, ["accuracy", "cross_entropy"])
    assert list(kinds) == [FULL, *KINDS]
    assert {row.run for row in kinds["int8"]} == {row.run for row in kinds[FULL]}
    sheet = next(s for s in report.sheets if "with weights in fewer bits" in s.title)
    assert [row[1] for row in sheet.rows] == [kind for kind in kinds for _ in range(3)]
    assert all(bool(row[4]) == row[0].startswith("large-sparse") for row in sheet.rows)


def test_a_study_with_failed_runs_ends_with_exit_code_1(
    tiny_file: Path, study_results: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(study_results, folder)
    command = ["study", "run", str(tiny_file), "--results", str(folder)]
    assert CliRunner().invoke(app, command).exit_code == 0
    trials = {trial.identity: trial for trial in plan(load_study(str(tiny_file))).trials}
    rows = [
        type(row).of(trials[row.run], row.outcome, row.test)
        if row.chosen
        else type(row).of(trials[row.run], None, failure="no memory")
        for row in Store(folder).records.rows()
    ]
    (folder / "rows.csv").write_text(rows_as_csv(rows))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "no memory" in result.output
    assert "--retry-failed" in result.output
