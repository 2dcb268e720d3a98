"""Two studies beside each other: what differs is named, and differences have Welch's intervals."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from scipy import stats
from typer.testing import CliRunner

from billhook.cli.app import app
from billhook.errors import ConfigurationError
from billhook.study.analysis.comparison import Design
from billhook.study.analysis.findings import find
from billhook.study.grid import DENSE, LARGE, SPARSE
from billhook.study.records.store import Store
from billhook.study.report.report import StudyReport, load_report
from billhook.study.report.side_by_side import configuration_sheet, difference_sheet
from billhook.tasks.digits import Digits
from tests.study.outcomes import row

NOISE = (-0.02, -0.01, 0.0, 0.01, 0.025)


def report_with(folder: Path, name: str, mean: float, width: float = 1.0) -> StudyReport:
    rows = [
        dataclasses.replace(row(arm, size, i, {"accuracy": mean + x}), width=width)
        for arm, size in ((DENSE, 500), (SPARSE, 500), (LARGE, 2_000))
        for i, x in enumerate(NOISE)
    ]
    real = load_report(Store(folder))
    findings = [[find(rows, Digits.metrics[0], Design(paired=True), 0.01, "standard")]]
    study = real.study.model_copy(update={"name": name, "margin": 0.01 if name == "a" else 0.02})
    return dataclasses.replace(real, study=study, rows=rows, findings=findings)


def test_differences_are_the_second_minus_the_first_by_welch(study_results: Path) -> None:
    a, b = report_with(study_results, "a", 0.8), report_with(study_results, "b", 0.83)
    first = [0.8 + x for x in NOISE]
    ends = stats.ttest_ind([x + 0.03 for x in first], first, equal_var=False).confidence_interval()
    sheet = difference_sheet(a, b)
    assert len(sheet.rows) == 3
    assert sheet.rows[0][-1] == f"+3.00 ({100 * ends.low:+.2f} to {100 * ends.high:+.2f})"
    settings = {line[0]: line[1:] for line in configuration_sheet(a, b).rows}
    assert settings == {"name": ("a", "b"), "margin": ("0.01", "0.02")}


def test_studies_with_nothing_in_common_are_refused(study_results: Path) -> None:
    a, b = report_with(study_results, "a", 0.8), report_with(study_results, "b", 0.8, width=2.0)
    with pytest.raises(ConfigurationError, match="no network of a is in b"):
        difference_sheet(a, b)


def test_the_command_writes_markdown(study_results: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(study_results, other)
    arguments = ["study", "compare", str(study_results), str(other)]
    result = CliRunner().invoke(app, [*arguments, "--markdown", str(tmp_path / "compare.md")])
    assert result.exit_code == 0, result.output
    assert "+0.00 (no interval claimed)" in (tmp_path / "compare.md").read_text()
