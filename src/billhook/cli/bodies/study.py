"""What ``billhook study status`` and ``study report`` print as JSON."""

import csv
from typing import Any

from billhook.study.records.rows import runs_of
from billhook.study.records.store import Store
from billhook.study.report.report import StudyReport

__all__ = ["report_data", "status_data"]


def status_data(store: Store) -> dict[str, Any]:
    """How a study stands."""
    runs = store.runs()
    running = {}
    for run in runs:
        if not store.settled(run) and store.running(run):
            seen = store.heartbeat(run)
            at = None if seen is None else seen.progress
            running[run.identity] = (
                None if at is None else {"step": at.step, "steps": at.steps, "metric": at.metric}
            )
    failures = {run.identity: store.failure(run) for run in runs}
    return {
        "study": store.study().name,
        "runs": runs_of(store.study(), store.records.by_run().values()),
        "finished": sum(map(store.finished, runs)),
        "recorded": len(store.records.by_run()),
        "running": running,
        "failed": {identity: reason for identity, reason in failures.items() if reason is not None},
    }


def report_data(report: StudyReport, store: Store) -> dict[str, Any]:
    """The verdicts and every comparison with all digits, as in comparison.csv."""
    with (store.folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        comparisons = [
            {name: _number(value) for name, value in row.items()} for row in csv.DictReader(file)
        ]
    return {
        "study": report.study.name,
        "partial": report.partial,
        "verdicts": [
            {"headline": headline, "details": details} for headline, *details in report.verdicts
        ],
        "comparisons": comparisons,
        "folder": str(store.folder),
    }


def _number(text: str) -> float | int | str | None:
    """A cell of a CSV file as what it is; nothing where there is no number.

    >>> [_number(cell) for cell in ("12", "0.5", "undecided", "nan", "")]
    [12, 0.5, 'undecided', None, None]
    """
    if text in ("", "nan", "inf", "-inf"):
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
