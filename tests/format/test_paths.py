"""Where files are written and read: links, devices, permissions, names, files cut off meanwhile."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import billhook
from billhook.atomic import replacing
from billhook.errors import ConfigurationError, FormatError
from billhook.format import Reader
from billhook.format.interchange import read

posix = pytest.mark.skipif(os.name != "posix", reason="devices, pipes and links as POSIX has them")
ONES, ZEROS = {"w": torch.ones(4)}, {"w": torch.zeros(4)}


@posix
def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    billhook.save(ONES, tmp_path / "folder" / "m")
    (tmp_path / "link").symlink_to("folder/m")
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    for link, target in (("link", "folder/m"), ("dangling", "new")):
        billhook.save(ZEROS, tmp_path / link)
        assert (tmp_path / link).is_symlink()
        assert torch.equal(billhook.load(tmp_path / target)["w"], ZEROS["w"])
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=str(tmp_path / "loop")):
        billhook.save(ONES, tmp_path / "loop")


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_permissions_are_handed_on(mode: int, tmp_path: Path) -> None:
    billhook.save(ONES, tmp_path / "m")
    (tmp_path / "m").chmod(mode)
    billhook.save(ZEROS, tmp_path / "m")
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == mode
    billhook.save(ONES, tmp_path / "other")
    (tmp_path / "plain").touch()
    assert (tmp_path / "other").stat().st_mode == (tmp_path / "plain").stat().st_mode


@posix
def test_pipes_and_devices_are_neither_replaced_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for special in (tmp_path / "pipe", Path(os.devnull)):
        kind = stat.S_IFMT(special.stat().st_mode)
        with pytest.raises(ConfigurationError, match="is a device, a pipe or a socket"):
            billhook.save(ONES, special)
        for opens in (billhook.load, billhook.inspect, read):
            with pytest.raises(FormatError, match="is a device, a pipe or a socket"):
                opens(special)
        assert stat.S_IFMT(special.stat().st_mode) == kind


def test_errors_of_the_system_name_the_path_that_was_given(tmp_path: Path) -> None:
    for call in (lambda path: billhook.save(ONES, path), billhook.load):
        with pytest.raises(IsADirectoryError) as caught:
            call(tmp_path)
        assert caught.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError) as missing:
        billhook.save(ONES, tmp_path / "no" / "such")
    assert missing.value.filename == str(tmp_path / "no" / "such")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["n" * 230, "n" * 255, "é" * 127, "a b", "..x"])
def test_names_as_long_as_the_system_allows(name: str, tmp_path: Path) -> None:
    billhook.save(ONES, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_paths_as_bytes(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "m")
    billhook.save(ONES, path)
    assert torch.equal(billhook.load(path)["w"], ONES["w"])
    assert billhook.inspect(path).path == tmp_path / "m"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    billhook.save(ONES, tmp_path / "m")

    def write() -> None:
        with replacing(tmp_path / "m") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert torch.equal(billhook.load(tmp_path / "m")["w"], ONES["w"])


def test_saving_over_the_file_that_was_loaded(tmp_path: Path) -> None:
    billhook.save({"w": torch.randn(50, 50)}, tmp_path / "m", encoding="dense")
    loaded = billhook.load(tmp_path / "m")
    expected = loaded["w"].clone()
    billhook.save(loaded, tmp_path / "m")
    assert torch.equal(billhook.load(tmp_path / "m")["w"], expected)
    assert torch.equal(loaded["w"], expected)


CUT = """
import os, sys
from billhook.errors import FormatError
from billhook.format import Reader

with Reader(sys.argv[1]) as file:
    os.truncate(sys.argv[1], int(sys.argv[2]))
    try:
        file.tensor("w")
    except FormatError as error:
        print(error)
"""


@pytest.mark.parametrize("size", [0, 4096])
def test_a_file_that_is_cut_off_while_it_is_open_is_an_error(size: int, tmp_path: Path) -> None:
    billhook.save({"w": torch.randn(100, 100)}, tmp_path / "m", encoding="dense")
    command = [sys.executable, "-c", CUT, str(tmp_path / "m"), str(size)]  # it might be killed
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "something cut it off" in result.stdout


def test_threads_read_one_file_at_once(tmp_path: Path) -> None:
    tensors = {f"w{i}": torch.full((500,), float(i)) for i in range(40)}
    billhook.save(tensors, tmp_path / "m")
    wrong: list[str] = []
    with Reader(tmp_path / "m") as file:

        def check() -> None:
            wrong.extend(n for n, t in tensors.items() if not torch.equal(file.tensor(n), t))

        threads = [threading.Thread(target=check) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
