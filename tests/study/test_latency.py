"""Latency is measured once, of the networks in their files, and kept for reports without them."""

import shutil
from pathlib import Path

import pytest

from billhook.errors import CompileError
from billhook.native import library
from billhook.study.grid import Plan, plan
from billhook.study.records.reading import LATENCY, read_table
from billhook.study.records.store import Store
from billhook.study.report.notes import notes
from billhook.study.report.page import page
from billhook.study.report.report import load_report
from billhook.study.run import latency
from billhook.study.run.latency import measure_latency
from billhook.study.spec import Study
from billhook.study.subject import Place

pytestmark = pytest.mark.skipif(library() is None, reason="built without kernels")


@pytest.fixture(scope="module")
def grid(tiny: Study) -> Plan:
    return plan(tiny)


@pytest.fixture(scope="module")
def store(grid: Plan, study_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("latency") / "results"
    shutil.copytree(study_results, folder)
    assert measure_latency(Store(folder), grid, Place()) == ""
    return Store(folder)


def test_a_network_of_every_arm_is_timed_and_the_machine_named(grid: Plan, store: Store) -> None:
    lines = read_table(store.folder / LATENCY)
    rows = store.records.by_run()
    assert [(rows[line["run"]].arm, rows[line["run"]].seed) for line in lines] == [
        ("large-dense", 0),
        ("small-dense", 0),
        ("large-sparse", 0),
    ]
    for line in lines:
        assert rows[line["run"]].chosen
        assert line["input"] == "1x64"
        assert float(line["eager_ms"]) > 0
        assert float(line["compiled_ms"]) > 0
        assert line["machine"] == store.provenance()["machine"]
    before = (store.folder / LATENCY).stat().st_mtime_ns
    assert measure_latency(store, grid, Place()) == ""
    assert (store.folder / LATENCY).stat().st_mtime_ns == before


def test_the_report_needs_no_models_for_it(store: Store, tmp_path: Path) -> None:
    for name in ("study.json", "rows.csv", LATENCY):
        shutil.copy(store.folder / name, tmp_path)
    report = load_report(Store(tmp_path))
    (sheet,) = (each for each in report.sheets if each.title.startswith("Latency"))
    assert len(sheet.rows) == 3
    assert store.provenance()["machine"] in sheet.title
    assert "billhook.compile" in page(report, tmp_path)


def test_without_files_it_is_left_out_with_a_note(
    grid: Plan, store: Store, study_results: Path, tmp_path: Path
) -> None:
    for name in ("study.json", "rows.csv"):
        shutil.copy(study_results / name, tmp_path)
    assert "files are not in" in measure_latency(Store(tmp_path), grid, Place())
    report = load_report(Store(tmp_path))
    assert not any(sheet.title.startswith("Latency") for sheet in report.sheets)
    assert any(line.startswith("Latency is left out") for line in notes(report))


def test_a_network_that_does_not_compile_says_why(
    grid: Plan, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CompileError("the outputs would differ")

    monkeypatch.setattr("billhook.bench.measure.compile", refuse)
    trial = next(t for t in grid.trials if store.records.by_run()[t.identity].chosen)
    line = latency._line(trial, store.run_folder(trial), Place())
    assert line["failure"] == "CompileError: the outputs would differ"
    assert line["compiled_ms"] == ""
