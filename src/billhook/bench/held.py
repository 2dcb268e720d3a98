"""Hold billhook and its peers to an instruction set, as if the processor had no better one.

Each library has its own way, an environment variable that it reads when it is loaded or first used:
oneDNN, which is in torch and in OpenVINO, MKL, torch's own kernels with those of torch.compile, and
billhook. ONNX Runtime has none: where the processor has a better set, it is left out.
"""

import os
import sys
from collections.abc import Mapping

from billhook.errors import ConfigurationError
from billhook.inference import isa

__all__ = ["obstacle", "variables", "with_held"]

#: What oneDNN, MKL and torch's own kernels are told.
_TOLD = {
    "avx2": ("AVX2", "AVX2", "avx2"),
    "avxvnni": ("AVX2_VNNI", "AVX2", "avx2"),
    "avx512": ("AVX512_CORE", "AVX512", "avx512"),
    "avx512vnni": ("AVX512_CORE_VNNI", "AVX512", "avx512"),
    "avx512vbmi": ("AVX512_CORE_VNNI", "AVX512", "avx512"),
}
_BEST = "BILLHOOK_BEST_ISA"  # of the processor, noted before it is held


def variables(name: str) -> dict[str, str]:
    """The environment that holds a process to an instruction set.

    Raises:
        ConfigurationError: this processor does not run it, or the others cannot be told.

    >>> variables("portable")
    Traceback (most recent call last):
    billhook.errors.ConfigurationError: nothing can be held to 'portable' ...
    """
    runs = {*isa.supported("fp32"), *isa.supported("int8")}
    if name not in _TOLD or name not in runs:
        here = ", ".join(each for each in _TOLD if each in runs)
        raise ConfigurationError(f"nothing can be held to {name!r} here: give one of {here}")
    onednn, mkl, aten = _TOLD[name]
    return {
        "ONEDNN_MAX_CPU_ISA": onednn,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
        "ATEN_CPU_CAPABILITY": aten,
        isa.MAX_ISA: name,
        _BEST: isa.best("int8"),
    }


def with_held(name: str) -> None:
    """Start this process anew so that all in it are held to a set, unless they are or "" is given.

    Raises:
        ConfigurationError: see :func:`variables`.
    """
    if name and os.environ.get(isa.MAX_ISA) != name:
        told = os.environ | variables(name)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], told)


def obstacle(form: str, environment: Mapping[str, str] = os.environ) -> str:
    """Why a form cannot be measured beside those that are held; "" if it can.

    >>> held = {"BILLHOOK_MAX_ISA": "avx2", "BILLHOOK_BEST_ISA": "avx512vnni"}
    >>> obstacle("onnxruntime int8", held)
    'ONNX Runtime has no way to be held to avx2'
    >>> obstacle("openvino", held)
    ''
    """
    held = environment.get(isa.MAX_ISA, "")
    better = held != environment.get(_BEST, held)
    if held and better and form.startswith("onnxruntime"):
        return f"ONNX Runtime has no way to be held to {held}"
    return ""
