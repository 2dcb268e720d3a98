"""`billhook study plan`: the paper's counts, every run, and nothing trained."""

import pytest
from typer.testing import CliRunner

from billhook.cli.app import app
from billhook.storage_table import rows
from billhook.study.published import published_table
from billhook.tasks.families import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_nnz_of_every_published_point(family: str) -> None:
    table = published_table(family)
    assert table is not None
    for point in table.points:
        width = point.width if family == "mobilenet_v1" else int(point.width)
        (row,) = rows([f"{family}({FAMILIES[family].width}={width})"], [point.sparsity])
        decimals = len(point.nnz.partition(".")[2].removesuffix("M"))
        # Within the last place, or nearly: InceptionV3 at 87.5% counts 3.41M, printed 3.3M.
        assert abs(row.nnz / 1e6 - point.nonzero / 1e6) < 1.15 * 10**-decimals, (point, row.nnz)


def plan(*arguments: str, columns: str | None = "250") -> str:
    result = CliRunner().invoke(app, ["study", "plan", *arguments], env={"COLUMNS": columns})
    assert result.exit_code == 0, result.exception
    return result.output


def test_the_papers_mobilenets_without_data() -> None:
    output = plan("paper-mobilenet-v1")
    for text in (
        "Table 2",
        "4,211,113",
        "Tables 5 and 6",
        "9.04 / 9.04",
        "1.84 / 1.84",
        "top1 61.8",
    ):
        assert text in output
    assert output.count("+0.000%") + output.count("-0.000%") >= 3  # the widths' pairs


def test_digits_lists_all_runs() -> None:
    output = plan("digits")
    assert "390 runs, 6 sizes of file, 10 seeds, 3 trials" in output
    assert "small-dense-longer" not in output


@pytest.mark.parametrize("columns", [None, "80"])
def test_a_plan_in_a_pipe_or_a_narrow_terminal_cuts_nothing(columns: str | None) -> None:
    output = plan("digits", columns=columns)
    assert "…" not in output
    assert columns or "large-sparse standard │" in output
