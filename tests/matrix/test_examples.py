"""The examples run as their first lines say."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_torchrun_on_two_processes() -> None:
    source = (ROOT / "examples" / "ddp_fsdp.py").read_text()
    line = re.search(r"^    torchrun (.*)$", source, re.MULTILINE)
    assert line is not None
    command = [sys.executable, "-m", "torch.distributed.run", *line.group(1).split()]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = re.findall(r"(\w+): (\d+) of (\d+) weights are left", ran.stdout)
    expected = round(0.1 * 32 * 64) + round(0.1 * 64)
    assert found == [
        ("DistributedDataParallel", str(expected), "2112"),
        ("FSDPSequential", str(expected), "2112"),
    ]
