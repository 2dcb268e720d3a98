"""Gather finished runs of ``billhook train`` into a folder of results.

    python benchmarks/collect_runs.py RUNS RESULTS

RUNS holds a folder a run; those with a ``result.json`` become a row of RESULTS/runs.csv, their
result and their metrics over the steps are copied beside it.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

COLUMNS = [
    "run",
    "family",
    "data",
    "steps",
    "epochs",
    "parameters",
    "nonzero",
    "sparsity_of_pruned",
    "file_bytes",
    "dense_file_bytes",
    "minutes",
]
METRICS = ("top1", "top5", "loss", "perplexity", "bleu", "bleu_greedy", "signature")


def row(run: Path) -> dict[str, object]:
    """One line of the table."""
    result = json.loads((run / "result.json").read_text())
    result |= {
        "run": run.name,
        "epochs": result["recipe"]["training"]["epochs"],
        "minutes": round(result["minutes_this_session"], 1),
    }
    metrics = {f"test_{name}": result["test"].get(name, "") for name in METRICS}
    return {name: result[name] for name in COLUMNS} | metrics


def main() -> None:
    runs, results = map(Path, sys.argv[1:])
    finished = sorted(path.parent for path in runs.glob("*/result.json"))
    rows = [row(run) for run in finished]
    with (results / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for run in finished:
        shutil.copy(run / "result.json", results / f"{run.name}.json")
        shutil.copy(run / "metrics.csv", results / f"{run.name}.metrics.csv")


if __name__ == "__main__":
    main()
