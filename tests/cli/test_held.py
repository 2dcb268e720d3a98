"""Holding every form to an instruction set: what each is told, and who cannot be."""

import os
import sys

import pytest
import torch

import billhook
from billhook.bench import held
from billhook.bench.peers import peer
from billhook.errors import ConfigurationError
from billhook.inference import isa
from billhook.native import library

pytestmark = pytest.mark.skipif(library() is None, reason="built without kernels")


def test_a_program_is_compiled_for_the_set_it_is_held_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(isa.MAX_ISA, "portable")
    assert isa.supported("int8") == ("portable",)
    layer = torch.nn.Linear(64, 128)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(64).repeat(2, 1))
    model = torch.nn.Sequential(layer).eval()
    assert billhook.compile(model, torch.rand(1, 64)).report().isa == "portable"


AVX2 = {"portable", "avx2"}
#: What a processor runs that has none better than the first.
RUNS = {
    "portable": {"portable"},
    "avx2": AVX2,
    "avxvnni": {*AVX2, "avxvnni"},
    "avx512": {*AVX2, "avx512"},
    "avx512vnni": {*AVX2, "avx512", "avx512vnni"},
    "avx512vbmi": {*AVX2, "avx512", "avx512vnni", "avx512vbmi"},
}


@pytest.mark.parametrize("limit", RUNS)
def test_a_limit_never_adds_a_set(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: tuple[isa.Precision, ...] = ("fp32", "int8")
    free = {kind: isa.supported(kind) for kind in kinds}
    monkeypatch.setenv(isa.MAX_ISA, limit)
    for kind, sets in free.items():
        assert isa.supported(kind) == tuple(each for each in sets if each in RUNS[limit])


def test_a_limit_that_is_no_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(isa.MAX_ISA, "avx3")
    with pytest.raises(ConfigurationError, match="BILLHOOK_MAX_ISA is 'avx3': it can be portable"):
        isa.supported("fp32")


@pytest.mark.skipif("avx2" not in isa.supported("int8"), reason="a processor without AVX2")
def test_the_process_starts_anew_with_what_each_library_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    best = isa.best("int8")
    held.with_held("")
    assert not started
    held.with_held("avx2")
    ((program, _, told),) = started
    assert program == sys.executable
    assert told["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert told["ATEN_CPU_CAPABILITY"] == "avx2"
    assert told[isa.MAX_ISA] == "avx2"
    monkeypatch.setenv(isa.MAX_ISA, "avx2")
    held.with_held("avx2")  # it is: nothing starts
    assert len(started) == 1
    assert bool(held.obstacle("onnxruntime", told)) == (best != "avx2")


def test_a_form_that_cannot_be_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billhook.bench.peers.obstacle", lambda name: f"{name} is not held")
    with pytest.raises(ConfigurationError, match="eager is not held"):
        peer("eager", torch.nn.Linear(2, 2), (torch.ones(1, 2),), 1)
