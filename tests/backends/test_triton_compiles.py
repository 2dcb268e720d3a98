"""The GPU kernels, compiled by Triton for devices that are not there: no register spills."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: make test-triton", allow_module_level=True)

SCRIPT = Path(__file__).with_name("compile_kernels.py")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100", "hip:gfx942"])
def test_every_kernel_compiles_without_a_spill(target: str, tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, SCRIPT, target],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    results = [json.loads(line) for line in run.stdout.splitlines()]
    kernels = {result["kernel"] for result in results}
    assert len(kernels) == 8, kernels
    assert not [result for result in results if result["stack"]]
    if target.startswith("cuda"):
        assert all(result["wide"] for result in results if result["kernel"] == "zero_dense")
