"""Files that are not safetensors are named as what they are, and paths as what was asked for."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import billhook
from billhook.errors import ConfigurationError, FormatError


def _zip(path: Path) -> None:
    torch.save({"weight": torch.eye(3)}, path)


def _old(path: Path) -> None:
    torch.save({"weight": torch.eye(3)}, path, _use_new_zipfile_serialization=False)


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": 3}))


def _numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (_zip, "a file of torch.save .*: `billhook convert OLD NEW.safetensors` reads it"),
        (_old, "a pickle, as old versions of torch.save wrote it: `billhook convert"),
        (_pickle, "a pickle, which may run code"),
        (_numpy, "a NumPy array"),
        (lambda path: path.write_text(json.dumps({"a": 1})), "text, perhaps JSON"),
        (lambda path: path.write_bytes(b"GGUF" + bytes(20)), "a GGUF file"),
    ],
)
@pytest.mark.parametrize("read", [billhook.load, billhook.inspect])
def test_other_files_are_named(
    read: Callable[[Path], object], write: Callable[[Path], object], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    write(path)
    with pytest.raises(FormatError, match=rf"model\.pt: this is {kind}"):
        read(path)


def test_the_first_byte_alone_decides_nothing(tmp_path: Path) -> None:
    """The length of a header may begin with any byte, that of a pickle too."""
    path = tmp_path / "model.safetensors"
    for extra in range(600):
        billhook.save({"w" * (extra + 1): torch.eye(2)}, path, encoding="dense")
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert billhook.load(path)


@pytest.mark.parametrize("key", ["model", "state_dict", "params_ema"])
def test_the_state_dict_in_a_checkpoint_is_pointed_to(key: str, tmp_path: Path) -> None:
    checkpoint = {"epoch": 3, key: {"weight": torch.eye(3)}, "optimizer": {"state": {}}}
    with pytest.raises(ConfigurationError, match=rf"pass checkpoint\['{key}'\]"):
        billhook.save(checkpoint, tmp_path / "m.safetensors")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("thing", [torch.eye(3), [torch.eye(3)], None, "model.pt"])
def test_other_things_to_save_get_a_sentence(thing: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be stored: give a module, or a dict"):
        billhook.save(thing, tmp_path / "m.safetensors")  # type: ignore[arg-type]


def test_errors_name_the_path_that_was_asked_for(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "m.safetensors"
    with pytest.raises(FileNotFoundError) as error:
        billhook.save({"weight": torch.eye(3)}, missing)
    assert error.value.filename == str(missing)
    with pytest.raises(OSError, match="Is a directory") as wrong:
        billhook.save({"weight": torch.eye(3)}, tmp_path)
    assert wrong.value.filename == str(tmp_path)
    assert not list(tmp_path.iterdir())
