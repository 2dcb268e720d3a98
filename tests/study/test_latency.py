"""Latency is measured once, of the networks in their files, and kept for reports without them."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import billhook
from billhook.cli.app import app
from billhook.errors import CompileError, ConfigurationError, FormatError
from billhook.inference.int8.choices import candidates, pattern_of
from billhook.native import library
from billhook.study.grid import SPARSE, Plan, plan
from billhook.study.records.latency import EAGER, FP32, INT8, Timing, latency_csv, read_latency
from billhook.study.records.reading import LATENCY
from billhook.study.records.store import Store
from billhook.study.report.notes import notes
from billhook.study.report.output import write_report
from billhook.study.report.page import page
from billhook.study.report.report import load_report
from billhook.study.run import latency
from billhook.study.run.latency import measure_latency
from billhook.study.run.trial import evaluated_as, load_task, run_trial
from billhook.study.spec import Study, load_study
from billhook.study.subject import Place
from tests.study.conftest import TINY

pytestmark = pytest.mark.skipif(library() is None, reason="built without kernels")

ARMS = ["large-dense", "small-dense", "large-sparse"]


@pytest.fixture(scope="module")
def grid(tiny: Study) -> Plan:
    return plan(tiny)


@pytest.fixture(scope="module")
def store(grid: Plan, study_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("latency") / "results"
    shutil.copytree(study_results, folder)
    assert measure_latency(Store(folder), grid, Place()) == ""
    return Store(folder)


def here(function: Callable[..., list[Timing]], *arguments: object) -> list[Timing]:
    """In this process, which needs not start another."""
    threads = torch.get_num_threads()
    try:
        return function(*arguments)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def full(grid: Plan, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Every form of every seed."""
    folder = tmp_path_factory.mktemp("every") / "results"
    shutil.copytree(store.folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "_in_fresh_process", here)
        assert measure_latency(Store(folder), grid, Place(), every=True) == ""
    return Store(folder)


def test_after_a_study_the_first_seed_is_timed_once_in_fp32(grid: Plan, store: Store) -> None:
    rows = store.records.by_run()
    timings = read_latency(store.folder)
    found = [(rows[each.run].arm, rows[each.run].seed, each.form) for each in timings]
    assert found == [(arm, 0, form) for arm in ARMS for form in (EAGER, FP32)]
    for each in timings:
        assert rows[each.run].chosen
        assert each.input == "1x64"
        assert each.milliseconds is not None
        assert each.milliseconds > 0
        assert (each.machine, each.threads) == (store.provenance()["machine"], 1)
    before = (store.folder / LATENCY).read_bytes()
    assert measure_latency(store, grid, Place()) == ""
    assert (store.folder / LATENCY).read_bytes() == before


def test_every_form_of_every_seed_has_a_time_or_a_reason(grid: Plan, full: Store) -> None:
    rows = full.records.by_run()
    timings = read_latency(full.folder)
    for seed in grid.study.seeds:
        for arm in ARMS:
            forms = {e.form for e in timings if (rows[e.run].seed, rows[e.run].arm) == (seed, arm)}
            assert {EAGER, FP32, INT8} <= forms
            assert ("openvino int8" in forms) == (arm != SPARSE)  # others run dense networks
    for each in timings:
        assert (each.milliseconds is None) == bool(each.failure)
        assert bool(each.test) == (each.form == INT8)


def test_the_metric_in_8_bits_is_that_of_the_program(grid: Plan, full: Store) -> None:
    timings = {(each.run, each.form): each for each in read_latency(full.folder)}
    trial = next(t for t in grid.trials if (t.identity, INT8) in timings and t.arm == SPARSE)
    task = load_task(trial, full.run_folder(trial), Place())
    inputs = task.example_inputs()
    assert inputs is not None
    batches = [batch for (batch,) in task.calibration()]
    program = billhook.compile(task.model, inputs, precision="int8", calibration=batches)
    with torch.no_grad():
        pixels, labels = task.parts["test"]  # type: ignore[attr-defined]
        correct = (program(pixels).argmax(1) == labels).double().mean().item()
    assert timings[trial.identity, INT8].test["accuracy"] == correct
    own = full.records.by_run()[trial.identity].test
    assert evaluated_as(task, task.model) == pytest.approx(own)


def test_what_was_interrupted_continues_with_the_missing_seed(
    grid: Plan, full: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "_in_fresh_process", here)
    folder = tmp_path / "results"
    shutil.copytree(full.folder, folder)
    rows = full.records.by_run()
    metrics = [metric.name for metric in grid.study.metrics]
    kept = [each for each in read_latency(folder) if rows[each.run].seed == 0]
    (folder / LATENCY).write_text(latency_csv(kept, metrics))
    seen: list[tuple[int, int]] = []
    again = Store(folder)
    assert measure_latency(again, grid, Place(), every=True, watch=lambda *a: seen.append(a)) == ""
    assert seen == [(1, 3)]
    assert read_latency(folder)[: len(kept)] == kept
    assert len(read_latency(folder)) == len(read_latency(full.folder))


def test_the_report_needs_no_models_for_it(full: Store, tmp_path: Path) -> None:
    for name in ("study.json", "rows.csv", LATENCY):
        shutil.copy(full.folder / name, tmp_path)
    report = load_report(Store(tmp_path))
    (sheet,) = (each for each in report.sheets if each.title.startswith("Latency"))
    assert full.provenance()["machine"] in sheet.title
    equal = [each for each in report.sheets if "at equal latency" in each.title]
    assert len(equal) == 3  # fp32, 8 bits, each by its fastest form
    assert any("accuracy at equal latency, billhook int8" in words[0] for words in report.verdicts)
    write_report(report, Store(tmp_path))
    assert (tmp_path / "milliseconds.png").read_bytes().startswith(b"\x89PNG")
    assert "(milliseconds.png)" in (tmp_path / "report.md").read_text()
    html = page(report, tmp_path)
    assert "Accuracy against milliseconds" in html
    assert "billhook int8" in html


def test_the_command_reports_what_is_measured_already(
    full: Store, tiny_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(full.folder, folder)
    before = (folder / LATENCY).read_bytes()
    command = ["study", "latency", str(tiny_file), "--results", str(folder)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "at equal latency" in result.output
    assert (folder / LATENCY).read_bytes() == before
    shutil.rmtree(folder / "runs")
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ConfigurationError)
    assert "nothing was timed" in str(result.exception)


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

    monkeypatch.setattr("billhook.compile", refuse)
    trial = next(t for t in grid.trials if store.records.by_run()[t.identity].chosen)
    folder = store.run_folder(trial)
    eager, fp32 = latency._timings([trial], [folder], Place(), (EAGER, FP32))
    assert eager.milliseconds is not None
    assert fp32.failure == "CompileError: the outputs would differ"
    assert fp32.milliseconds is None


def test_blocks_of_1x4_are_a_variant_whose_weights_their_kernels_take(tmp_path: Path) -> None:
    file = tmp_path / "blocks.toml"
    variants = 'variants = [{ granularity = "block-1x4" }]'
    file.write_text(TINY.replace('choose_by = "cross_entropy"', variants))
    trial = next(trial for trial in plan(load_study(str(file))).trials if trial.variant)
    run_trial(trial, tmp_path, lambda _: None)
    model = load_task(trial, tmp_path, Place()).model
    patterns = {
        pattern_of(weight.detach().ne(0).to(torch.int8).numpy())
        for weight in model.parameters()
        if weight.dim() == 2
    }
    assert patterns == {"1x4"}
    weight = next(weight for weight in model.parameters() if weight.dim() == 2)
    assert "1x4" in candidates(weight.detach().ne(0).to(torch.int8).numpy(), "avx2", vector=True)


@pytest.mark.parametrize(
    ("form", "wrong"),
    [(FP32, {"milliseconds": -1.0}), (FP32, {"milliseconds": None}), (INT8, {"test": {"a": "x"}})],
)
def test_a_damaged_line_names_itself(form: str, wrong: dict[str, object], tmp_path: Path) -> None:
    line = Timing("run-7", form, "1x64", 1.0, "cpu", "a machine", "avx2", 1)
    damaged = dataclasses.replace(line, **wrong)  # type: ignore[arg-type]
    (tmp_path / LATENCY).write_text(latency_csv([line, damaged], ["a"]))
    with pytest.raises(FormatError, match=f"run-7, {form}"):
        read_latency(tmp_path)
