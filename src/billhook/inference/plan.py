"""The plan of a compiled model: which kernel runs each layer. Data, so that it can be replayed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from billhook.errors import ConfigurationError
from billhook.inference.isa import Precision, names
from billhook.inference.kernels import MAX_VECTORS

__all__ = ["INT8_KERNELS", "Choice", "Mode", "Plan", "Precision"]

VERSION = 1
INT8_KERNELS = ("1x4", "4x4", "8x4", "16x4", "all_blocks", "windows")
KERNELS = ("dense", "spmm", "spmm_packed", "depthwise", "fused", "sparse", *INT8_KERNELS)
Mode = Literal["network", "modules", "dense"]


@dataclass(frozen=True)
class Choice:
    """How one layer runs.

    ``kernel``: "dense" (all weights, by torch where layers are replaced one by one), "spmm"
    (sparse, operand as it lies), "spmm_packed" (operand gathered into panels), "depthwise" (its own
    kernel, one channel at a time), "fused" (a depthwise convolution that fills the panels of the
    1x1 after it), "sparse" (a linear or recurrent layer, by its own rules). In 8 bits:
    "Rx4" (the blocks of R rows by four columns with a nonzero), "all_blocks" (all of them, four
    rows each), "windows" (unstructured zeros, by AVX512_VBMI), and "depthwise". ``vectors``: the
    widest tile, in vectors of eight pixels.
    """

    kernel: str
    vectors: int = MAX_VECTORS

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ConfigurationError(
                f"a plan names the kernel {self.kernel!r}, which does not exist"
            )
        if type(self.vectors) is not int or not 1 <= self.vectors <= MAX_VECTORS:
            raise ConfigurationError(
                f"a plan has tiles of {self.vectors!r} vectors: 1 to {MAX_VECTORS} are possible"
            )


@dataclass(frozen=True)
class Plan:
    """Everything that decides a compiled model's results: equal plans give bit-equal outputs.

    >>> plan = Plan("modules", "portable", {"fc": Choice("sparse")})
    >>> Plan.from_dict(plan.to_dict()) == plan
    True
    """

    mode: Mode
    isa: str
    layers: Mapping[str, Choice] = field(default_factory=dict)
    precision: Precision = "fp32"

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON's types."""
        layers = {name: asdict(choice) for name, choice in self.layers.items()}
        data = {"version": VERSION, "mode": self.mode, "isa": self.isa, "layers": layers}
        return data if self.precision == "fp32" else {**data, "precision": self.precision}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Plan":
        """The plan that ``to_dict`` gave.

        Raises:
            ConfigurationError: The data is not a plan of this version.
        """
        _check_form(data)
        if data.get("version") != VERSION:
            raise ConfigurationError(
                f"the plan has version {data.get('version')!r}, this billhook reads {VERSION}: "
                "compile the model again"
            )
        precision = data.get("precision", "fp32")
        if precision not in ("fp32", "int8"):
            raise ConfigurationError(f"the plan's precision is {precision!r}: known are fp32, int8")
        sets = names(precision)  # none without native kernels, when no plan runs sparse
        unknown = bool(sets) and data["isa"] not in sets
        if data["mode"] not in ("network", "modules", "dense") or unknown:
            raise ConfigurationError(
                f"the plan's mode is {data['mode']!r} and its instruction set {data['isa']!r}: "
                f"known are network, modules, dense and {', '.join(sets)}"
            )
        layers = {name: _choice(name, choice) for name, choice in data["layers"].items()}
        wrong = [name for name, choice in layers.items() if choice.kernel in INT8_KERNELS]
        if wrong and precision == "fp32":
            raise ConfigurationError(
                f"the plan of fp32 has {wrong[0]!r} run by {layers[wrong[0]].kernel!r}, "
                "a kernel of 8 bits"
            )
        return cls(data["mode"], data["isa"], layers, precision)


def _check_form(data: object) -> None:
    """Raises ConfigurationError unless the data has the parts of a plan."""
    parts = ("version", "mode", "isa", "layers")
    whole = isinstance(data, Mapping) and all(part in data for part in parts)
    if not isinstance(data, Mapping) or not whole or not isinstance(data["layers"], Mapping):
        raise ConfigurationError(
            f"a plan is a mapping with {', '.join(parts)}, of which layers is one too: give what "
            "compiled.plan.to_dict() returned"
        )
    text = [data["mode"], data["isa"], *data["layers"]]
    if not all(isinstance(each, str) for each in text):
        raise ConfigurationError("a plan's mode, isa and the names of its layers are strings")


def _choice(name: str, data: object) -> Choice:
    fields = {"kernel", "vectors"}
    if not isinstance(data, Mapping) or "kernel" not in data or not set(data) <= fields:
        raise ConfigurationError(
            f"the plan's choice for layer {name!r} is {data!r}: it has a kernel, and perhaps "
            "vectors"
        )
    return Choice(**data)
