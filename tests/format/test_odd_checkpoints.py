"""``convert`` on what people have on disk: read, or an error of ours, never a foreign exception."""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import billhook
from billhook.cli.app import app
from billhook.errors import BillhookError, FormatError
from billhook.format.interchange import read

STATE = OrderedDict((f"layer.{name}", t) for name, t in nn.Linear(4, 4).state_dict().items())
W = torch.eye(4)


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def zipped(parts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def scripted() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.ReLU()), buffer)
    return buffer.getvalue()


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, w=np.ones(3))
    return buffer.getvalue()


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["state_dict"] = value
    return value


READ: dict[str, Callable[[], bytes]] = {
    "a state_dict": partial(saved, STATE),
    "an old pickle": partial(saved, STATE, _use_new_zipfile_serialization=False),
    **{
        f"under {key!r}": partial(saved, {key: STATE, "epoch": 3, "optimizer": {"state": {}}})
        for key in ("state_dict", "model_state_dict", "model", "module", "net", "params", "mine")
    },
    "averages beside it": partial(saved, {"params_ema": STATE, "params": {"x": W}}),
}


@pytest.mark.parametrize("name", READ)
def test_what_training_scripts_write_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "in.pt").write_bytes(READ[name]())
    assert list(read(tmp_path / "in.pt")) == list(STATE)


WHOLE, OLD = saved(STATE), saved(STATE, _use_new_zipfile_serialization=False)

ODD: dict[str, Callable[[], bytes]] = {
    "a module": lambda: saved(nn.Linear(4, 4)),
    "TorchScript": scripted,
    "NumPy arrays": arrays,
    "an empty dict": lambda: saved({}),
    "a list": lambda: saved([W]),
    "a tensor": lambda: saved(W),
    "a number": lambda: saved(3),
    "nothing": lambda: saved(None),
    "text": lambda: saved("weights"),
    "a dict in a circle": lambda: saved(cyclic()),
    "numbers beside tensors": lambda: saved({**STATE, "epoch": 3}),
    "names that are numbers": lambda: saved({0: W}),
    "two that could be it": lambda: saved({"a": {"w": W}, "b": {"w": W}}),
    "an optimizer's state": lambda: saved(torch.optim.SGD([W.requires_grad_()]).state_dict()),
    "an empty archive": lambda: zipped({}),
    "another archive": lambda: zipped({"hello.txt": b"hello"}),
    "an archive with half of it": lambda: zipped({"archive/data.pkl": b"\x80\x02}q\x00."}),
    "an archive with a pickle of code": lambda: zipped({"a/data.pkl": pickle.dumps(print)}),
    "an archive with a wrong version": lambda: zipped({"a/data.pkl": b"", "a/version": b"x"}),
    "a pickle": lambda: pickle.dumps({"w": 1}),
    "a pickle of code": lambda: pickle.dumps(print),
    "a pickle of one byte": lambda: b"\x80",
    "a pickle of a newer protocol": lambda: b"\x80\x63.",
    "a pickle nested too deep": lambda: b"\x80\x02" + b"(" * 100_000 + b".",
    "a pickle that pops nothing": lambda: b"\x80\x020000.",
    "a pickle with a huge length": lambda: b"\x80\x04\x8d" + b"\xff" * 8,
    "a pickle with text that is not UTF-8": lambda: b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
    "an old pickle of another magic number": lambda: pickle.dumps(5, 2) + pickle.dumps(6, 2),
    "two letters": lambda: b"PK",
    **{
        f"an archive cut at {cut:.0%}": partial(_cut, WHOLE, cut)
        for cut in (0.01, 0.3, 0.6, 0.9, 0.99)
    },
    **{
        f"an old pickle cut at {cut:.0%}": partial(_cut, OLD, cut)
        for cut in (0.01, 0.3, 0.6, 0.9, 0.99)
    },
    "a sparse tensor": lambda: saved({"w": W.detach().to_sparse()}),
    "a CSR tensor": lambda: saved({"w": W.detach().to_sparse_csr()}),
    "a quantised tensor": lambda: saved(
        {"w": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)}
    ),
    "a meta tensor": lambda: saved({"w": torch.empty(3, device="meta")}),
    "a nested tensor": lambda: saved(
        {"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}
    ),
    "a complex double": lambda: saved({"w": torch.ones(2, dtype=torch.complex128)}),
    "half a surrogate pair": lambda: saved({"\ud800": torch.ones(2)}),
    "the reserved name": lambda: saved({"__metadata__": torch.ones(2)}),
    "our own ending": lambda: saved({"w.billhook": torch.ones(2)}),
    "a mask of another shape": lambda: saved({"w_orig": torch.ones(4), "w_mask": torch.ones(3)}),
    "a mask of halves": lambda: saved({"w_orig": torch.ones(4), "w_mask": torch.full((4,), 0.5)}),
    "a mask that is sparse": lambda: saved(
        {"w_orig": torch.ones(4, 4), "w_mask": W.detach().to_sparse()}
    ),
    "a mask of float8": lambda: saved(
        {"w_orig": torch.ones(4), "w_mask": torch.zeros(4).to(torch.float8_e5m2)}
    ),
    "a mask without its weight": lambda: saved({"w_orig": torch.ones(4)}),
    "a bit mask whose shape is NaN": lambda: saved(
        {
            "w.compressed": torch.ones(1),
            "w.bitmask": torch.ones(1, 1, dtype=torch.uint8),
            "w.shape": torch.tensor([float("nan"), 1.0]),
        }
    ),
    "a bit mask whose shape is complex": lambda: saved(
        {
            "w.compressed": torch.ones(1),
            "w.bitmask": torch.ones(1, 1, dtype=torch.uint8),
            "w.shape": torch.tensor([1j]),
        }
    ),
    "a bit mask whose shape is huge": lambda: saved(
        {
            "w.compressed": torch.ones(1),
            "w.bitmask": torch.ones(0, 1, dtype=torch.uint8),
            "w.shape": torch.tensor([0, 2**62]),
        }
    ),
    "a parametrisation without a mask": lambda: saved(
        {"parametrizations.w.original": torch.ones(2)}
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, of tensors that it gives up
@pytest.mark.parametrize("name", ODD)
def test_odd_files_end_in_one_line_or_are_read(name: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.pt", tmp_path / "out.safetensors"
    source.write_bytes(ODD[name]())
    result = CliRunner().invoke(app, ["convert", str(source), str(target)])
    if result.exception is None:
        assert billhook.load(target)
        return
    assert isinstance(result.exception, BillhookError), repr(result.exception)
    assert not target.exists()


def test_there_are_enough_of_them() -> None:
    assert len(ODD) >= 40


def test_what_a_file_holds_instead_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.pt").write_bytes(ODD["two that could be it"]())
    with pytest.raises(FormatError, match=r"a dict of 'a' \(dict\), 'b' \(dict\)"):
        read(tmp_path / "in.pt")


def flipped(data: bytes, place: bytes) -> bytes:
    """``data`` with one bit of what follows ``place`` changed, as a bad disk would."""
    at = data.rindex(place) + len(place)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (saved(nn.Linear(2, 2)), r"it names torch.nn.modules.linear.Linear, and to open it would"),
        (saved({"w": W, "f": Path("x")}), r"it names pathlib\S* and to open it would run code"),
        (scripted(), r"is TorchScript: save torch.jit.load\(path\).state_dict\(\)"),
        (zipped({"w.npy": b"1"}), "is a NumPy archive"),
        (saved({"w": W})[:-100], "is a zip archive that is cut off or damaged"),
        (flipped(saved({"w": W}), W.numpy().tobytes()[:20]), "the checksum of '.*' does not fit"),
        (b"\x80\x02garbage", "it is damaged, or of another kind"),
    ],
    ids=["module", "path", "scripted", "archive", "cut off", "flipped", "garbage"],
)
def test_files_of_torch_that_are_more_or_less_than_tensors_get_one_line(
    data: bytes, cause: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=cause) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert "add_safe_globals" not in str(caught.value)
