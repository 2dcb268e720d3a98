"""A program behind HTTP, with FastAPI: several processes that share one copy of its weights.

    make runtime
    pip install dist/billhook_runtime-*.whl fastapi uvicorn
    python examples/serve.py program.billhook.safetensors --workers 4

torch is not needed. The program is opened once, before the workers are forked: its packed weights
are only read, so all workers use the same memory. Each worker has a workspace of its own. ``GET /``
says what the inputs are; ``POST /run`` takes them by name, as nested lists of one or several
samples: ``{"inputs": {"x": [[0.5, ...]]}}``.
"""

import argparse
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import numpy
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

import billhook_runtime


class Request(BaseModel):
    """Nested lists by the names of inputs."""

    inputs: dict[str, list[Any]]


def make_app(program: billhook_runtime.Program) -> FastAPI:
    """The two addresses."""
    app = FastAPI(title="billhook")

    @app.get("/")
    def describe() -> dict[str, dict[str, str]]:
        return {name: {"shape": own.sides, "dtype": str(own.dtype)} for name, own in ports}

    @app.post("/run")
    def run(request: Request) -> dict[str, list[Any]]:
        known = dict(ports)
        try:
            given = {
                name: numpy.array(value, known[name].dtype if name in known else None)
                for name, value in request.inputs.items()
            }
            made = program(**given)
        except (ValueError, TypeError, OverflowError, billhook_runtime.ProgramError) as error:
            raise HTTPException(422, str(error)) from error
        named = made if isinstance(made, dict) else dict.fromkeys(program.outputs, made)
        return {name: y.tolist() for name, y in named.items()}

    ports = list(program.inputs.items())
    return app


def fork(count: int, work: Callable[[], None]) -> list[Any]:
    """Processes that do ``work`` with the memory of this one as it is now."""
    processes = [multiprocessing.get_context("fork").Process(target=work) for _ in range(count)]
    for process in processes:
        process.start()
    return processes


def main() -> None:
    """Open, fork, serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    import uvicorn

    program = billhook_runtime.load(options.program)
    app = make_app(program)
    listening = socket.create_server(("127.0.0.1", options.port))

    def work() -> None:
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])

    workers = fork(options.workers, work)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"{options.workers} workers listen on port {options.port}", flush=True)
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        pass  # the workers got it too
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(10)
            worker.kill()


if __name__ == "__main__":
    main()
