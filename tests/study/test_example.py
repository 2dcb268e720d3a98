"""One function and a few lines of TOML are a study."""

import json
from pathlib import Path

from typer.testing import CliRunner

from billhook.cli.app import app

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = """
[overrides.data]
pixels = 16
[overrides.training]
epochs = 0.3
batch_size = 64
evaluate_every = 1
"""


def test_the_example_runs(tmp_path: Path) -> None:
    for name in ("own_study.py", "own_study.toml"):
        (tmp_path / name).write_text((EXAMPLES / name).read_text())
    file = tmp_path / "own_study.toml"
    text = file.read_text().replace("[0.05, 0.1]", "[0.1]\nseeds = [0, 1]")
    file.write_text(text + SHORT)
    results = str(tmp_path / "results")
    arguments = ["study", "run", str(file), "--results", results]
    done = CliRunner().invoke(app, [*arguments, "--workers", "1"])
    assert done.exit_code == 0, done.exception
    rows = (tmp_path / "results" / "rows.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * (1 + 2 * 2)
    assert "test_top1" in rows[0]
    report, status = (
        json.loads(CliRunner().invoke(app, ["study", each, results, "--json"]).stdout)
        for each in ("report", "status")
    )
    assert {each["bytes"] for each in report["comparisons"]} == {34_576, 130_392}
    assert status | {"recorded": 0} == {
        "study": "own_study",
        "runs": 10,
        "finished": 10,
        "recorded": 0,
        "running": {},
        "failed": {},
    }


def test_data_that_a_study_would_not_use_are_refused() -> None:
    for command in ("run", "plan"):
        refused = CliRunner().invoke(app, ["study", command, "digits", "--data", "here"])
        assert "--data here is not used: digits brings its own data" in str(refused.exception)
