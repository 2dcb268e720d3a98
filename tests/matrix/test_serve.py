"""The example of a server: what it answers, and that its workers share the weights."""

import importlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import billhook

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "build/runtime/make"
pytestmark = pytest.mark.skipif(
    not (LIBRARY / "libbillhook.so").exists(), reason="`make runtime` has not been run"
)
PIPE = subprocess.PIPE
PATHS = {"PYTHONPATH": str(ROOT / "runtime"), "BILLHOOK_RUNTIME_LIBRARY": str(LIBRARY)}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    pytest.importorskip("fastapi")
    monkeypatch.setenv("BILLHOOK_RUNTIME_LIBRARY", str(LIBRARY))
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.syspath_prepend(ROOT / "runtime")
    yield importlib.import_module("serve")
    for name in ("serve", "billhook_runtime"):
        sys.modules.pop(name)


def saved(folder: Path, size: int) -> tuple[Path, nn.Module]:
    """A program of one linear layer, named inputs ``input``, whose weights are 2 * size ** 2 bytes
    and more."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 3)).eval()
    billhook.prune(model, 0.5)
    layers = {name: {"kernel": "sparse"} for name in ("0", "2")}
    plan = {"version": 1, "mode": "network", "isa": "portable", "layers": layers}
    path = folder / "program.billhook.safetensors"
    billhook.save(billhook.compile(model, torch.ones(1, size), plan=plan), path)
    return path, model


def test_answers(serve: ModuleType, tmp_path: Path) -> None:
    client: Any = pytest.importorskip("fastapi.testclient").TestClient
    path, model = saved(tmp_path, 8)
    with client(serve.make_app(serve.billhook_runtime.load(path))) as asked:
        assert asked.get("/").json() == {"input": {"shape": "(samples, 8)", "dtype": "float32"}}
        x = torch.rand(2, 8)
        answer = asked.post("/run", json={"inputs": {"input": x.tolist()}})
        torch.testing.assert_close(torch.tensor(answer.json()["y0"]), model(x).detach())
        for inputs, words in (
            ({}, "input was not given"),
            ({"x": [1.0]}, "the program takes input"),
            ({"input": [[1.0]]}, "(samples, 8)"),
            ({"input": [["a"] * 8]}, "could not convert"),
            ({"input": [[1.0], [1.0, 2.0]]}, "inhomogeneous"),
        ):
            refused = asked.post("/run", json={"inputs": inputs})
            assert refused.status_code == 422
            assert words in refused.json()["detail"], refused.json()
        assert asked.post("/run", json={}).status_code == 422


def shared(pid: int | str) -> int:
    """The bytes of memory that a process has in common with another one."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(int(kb) for kb in re.findall(r"Shared_(?:Clean|Dirty): +(\d+) kB", text))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is seen on Linux")
def test_workers_share_the_weights(serve: ModuleType, tmp_path: Path) -> None:
    path, model = saved(tmp_path, 2048)
    program = serve.billhook_runtime.load(path)
    x = torch.rand(1, 2048)
    told: Any = multiprocessing.get_context("fork").SimpleQueue()
    before = shared("self")

    def work() -> None:
        y = program(x.numpy())
        told.put((shared("self"), y))

    workers = serve.fork(2, work)
    answers = [told.get() for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for common, y in answers:
        assert common - before > 4 * 2048**2 / 2  # the values of half of the weights
        torch.testing.assert_close(torch.from_numpy(y), model(x).detach(), rtol=1e-4, atol=1e-5)


def test_the_server_starts_and_ends(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    path, model = saved(tmp_path, 8)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "examples/serve.py", str(path), "--workers", "2"]
    command += ["--port", str(port)]
    paths = os.pathsep.join([PATHS["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **PATHS, "PYTHONPATH": paths}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == f"2 workers listen on port {port}\n"
            x = torch.rand(1, 8)
            body = json.dumps({"inputs": {"input": x.tolist()}}).encode()
            address, kind = f"http://127.0.0.1:{port}/run", {"Content-Type": "application/json"}
            request = urllib.request.Request(address, body, kind)
            with urllib.request.urlopen(request, timeout=60) as answer:
                y = torch.tensor(json.load(answer)["y0"])
            torch.testing.assert_close(y, model(x).detach())
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    with socket.socket() as client:  # nobody listens any more
        assert client.connect_ex(("127.0.0.1", port)) != 0
