"""benchmarks/gpu.py runs through, in small, where there is no GPU; there its times mean nothing."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_the_script_runs_through_and_finds_the_masks_right() -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if not line.startswith(" ")]
    found = {line[6:72].strip(): line[:4] for line in lines[1:-1]}
    assert set(found.values()) <= {"PASS", "FAIL"}, run.stdout
    failed = sum(verdict == "FAIL" for verdict in found.values())
    assert lines[-1] == f"{failed} failed"
    assert run.returncode == bool(failed)
    assert all("ms" in line for line in lines if line.startswith("FAIL")), run.stdout
    assert sum("equal" in name for name in found) == 5
    assert sum("update adds" in name for name in found) == 4  # three models, and kernels
