"""A results folder of a stranger, or of a bad disk: refused with its file named, never obeyed."""

import json
import random
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from billhook.errors import BillhookError, ConfigurationError, FormatError, StateError
from billhook.study.grid import plan
from billhook.study.records.outcome import Heartbeat, Outcome, Progress
from billhook.study.records.reading import read_json
from billhook.study.records.store import Run, Store
from billhook.study.report.output import markdown, print_report, write_report
from billhook.study.report.page import page
from billhook.study.report.report import load_report
from billhook.study.run import workers
from billhook.study.run.progress import print_status
from billhook.study.run.workers import LocalPool, run_trials
from billhook.study.spec import Study
from tests.study.in_process import HERE, InProcess

FILES = "study.json", "rows.csv", "curves.csv", "layers.csv"
RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture
def folder(study_results: Path, tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(study_results / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/study.json")))
def test_committed_results_are_read(name: str) -> None:
    report = load_report(Store(RESULTS / name))
    assert report.rows
    assert report.study.data_description  # called "found" in the files of some of them


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A bit, a stretch, a cell or the end of a file changed."""
    place = draw.randrange(len(content))
    kind = draw.randrange(5)
    if kind == 0:
        return (
            content[:place]
            + bytes([content[place] ^ 1 << draw.randrange(8)])
            + content[place + 1 :]
        )
    if kind == 1:
        return content[:place]
    if kind == 2:
        return content[:place] + content[place + draw.randrange(1, 40) :]
    pieces = content.split(b",")
    values = (
        b"nan",
        b"-1",
        b"0",
        b"1e999",
        b"x",
        b"",
        b"\x80",
        b"99999999999999999999",
        b"\x1b[2J",
        b'"',
    )
    pieces[draw.randrange(len(pieces))] = draw.choice(values)
    return b",".join(pieces)


def test_whatever_is_damaged_ends_in_an_error_of_ours(folder: Path) -> None:
    draw, refused = random.Random(0), 0
    console = Console(quiet=True)
    for attempt in range(240):
        name = FILES[attempt % len(FILES)]
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(mutated(whole, draw))
        try:
            report = load_report(Store(folder))
            markdown(report)
            print_report(report, console)
            print_status(console, Store(folder))
            if attempt % 12 == 0:
                page(report, folder)
        except BillhookError:
            refused += 1
        (folder / name).write_bytes(whole)
    assert refused > 100


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parameters": "x"}', "\x80", "null"])
def test_a_damaged_outcome_names_its_file(tmp_path: Path, text: str) -> None:
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "outcome.json").write_text(text, encoding="latin-1")
    with pytest.raises(FormatError, match=r"outcome.json is damaged .* delete the folder a"):
        Store(tmp_path).outcome(Run("a"))
    for name in ("failure.json", "test.json"):
        (run / name).write_text(text or "[", encoding="latin-1")
        with pytest.raises(FormatError, match=f"{name} is damaged"):
            read_json(run / name, Outcome)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"progress": 1}'])
def test_damaged_word_of_progress_is_no_word(tmp_path: Path, text: str) -> None:
    run, store = Run("a"), Store(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    heartbeat = Heartbeat(Progress("a", 1, 2, 0.5, 0.1), 7, None)
    store.note(run, heartbeat)
    assert store.heartbeat(run) == heartbeat
    (tmp_path / "runs" / "a" / "progress.json").write_text(text)
    assert store.heartbeat(run) is None


HTML = "<img src=x onerror=alert(1)> [here](javascript:alert(1)) \x1b[2J"


def test_what_a_folder_says_stays_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "study.json"
    manifest = json.loads(path.read_text())
    manifest["study"]["data_description"] = HTML
    manifest["provenance"]["machine"] = HTML
    path.write_text(json.dumps(manifest))
    rows = (folder / "rows.csv").read_text().splitlines()
    heading = rows[0].split(",")
    failed = dict(zip(heading, rows[1].split(","), strict=True))
    failed |= {"run": f"large-dense-{HTML}", "failure": HTML, "chosen": "0"}
    (folder / "rows.csv").write_text("\n".join([*rows, ",".join(failed.values())]) + "\n")
    report = load_report(Store(folder))
    text = markdown(report)
    assert "<img" not in text
    assert "[here](javascript" not in text
    assert "\x1b" not in text
    assert "<img src=x" not in page(report, folder)
    console = Console(width=200)
    print_report(report, console)
    print_status(console, Store(folder))
    assert "\x1b[2J" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["report.md", "report.html", "plot.png", "comparison.csv"])
def test_reports_are_not_written_through_links(folder: Path, name: str) -> None:
    precious = folder.parent / f"precious-{folder.name}-{name}"
    precious.write_text("mine")
    (folder / name).symlink_to(precious)
    store = Store(folder)
    with pytest.raises(StateError, match=f"{name} is a symbolic link"):
        write_report(load_report(store), store)
    assert precious.read_text() == "mine"


def test_rows_of_a_network_that_was_edited_since(folder: Path, tiny: Study) -> None:
    rows = (folder / "rows.csv").read_text()
    run = rows.splitlines()[1].partition(",")[0]
    (folder / "rows.csv").write_text(rows.replace(run, f"{run}-edited"))
    store, grid = Store(folder), plan(tiny)
    with pytest.raises(ConfigurationError, match="1 runs of an earlier version of this study"):
        run_trials(store, grid, InProcess(store), lambda: None)
    assert (folder / "rows.csv").read_text() == rows.replace(run, f"{run}-edited")


def test_a_worker_that_dies_as_it_starts_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    start = workers._Worker.start

    def sometimes() -> workers._Worker:
        worker = start()
        starts.append(worker)
        if len(starts) == 1:
            for process in worker.executor._processes.values():
                process.kill()
        return worker

    monkeypatch.setattr(workers._Worker, "start", sometimes)
    pool = LocalPool(Store(tmp_path), 1, HERE)
    pool.close()
    assert len(starts) == 2


def test_workers_that_all_die_as_they_start_end_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = workers._Worker.start

    def never() -> workers._Worker:
        worker = start()
        for process in worker.executor._processes.values():
            process.kill()
        return worker

    monkeypatch.setattr(workers._Worker, "start", never)
    with pytest.raises(StateError, match="3 worker processes died as they started"):
        LocalPool(Store(tmp_path), 1, HERE)
