"""Studies on a real local Ray cluster: nothing lost when a worker dies, a clear error if absent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from billhook.errors import ConfigurationError
from billhook.study.records.store import Store
from billhook.study.run.ray_pool import RayPool

SCRIPT = """
import sys
from pathlib import Path
from billhook.study.grid import plan
from billhook.study.run.ray_pool import RayPool
from billhook.study.spec import load_study
from billhook.study.records.store import Store
from tests.study.in_process import HERE
from tests.study.test_workers import kill_at_checkpoint, long, of

grid = plan(load_study(sys.argv[1]))
trials = grid.trials[:3]
trials = (long(trials[0], 2000), *trials[1:])
store = Store(Path(sys.argv[2]))
killer = kill_at_checkpoint(store, trials[0])
pool = RayPool(store, "local", 2, HERE)
submitted = []
submit = pool.submit
pool.submit = lambda group, trial: submitted.append(trial) or submit(group, trial)
from billhook.study.run.workers import run_trials
run_trials(store, of(grid, *trials), pool, lambda: None)
pool.close()
assert not killer.is_alive()
assert all(map(store.finished, trials)), [store.failure(t) for t in trials]
assert sorted(map(trials.index, submitted)) == [0, 0, 1, 2], submitted  # only the killed one twice
"""


@pytest.mark.slow
def test_a_worker_killed_on_a_cluster_loses_no_run_and_repeats_none(
    tiny_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_file), str(tmp_path / "results")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"])
def test_an_unreachable_cluster_is_an_error_at_once(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no Ray cluster at"):
        RayPool(Store(tmp_path / "results"), address, 1, None)  # type: ignore[arg-type]
    assert not (tmp_path / "results").exists()
