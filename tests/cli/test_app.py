"""The command line as a whole: what it imports, where it looks, and what it says on errors."""

import functools
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import billhook
from billhook.bench.memory import STEADY_MALLOC
from billhook.cli import app as cli
from billhook.cli.bodies import bench

COMMANDS = [
    [],
    *(["inspect"], ["convert"], ["footprint"], ["bench"], ["plan"], ["train"], ["study"]),
    *(["study", name] for name in ("plan", "run", "report", "compare", "status")),
]


def billhook_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command run in a folder, as ``python -m billhook``, which puts the folder on the path."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "billhook", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_command_has_help(command: list[str], option: str) -> None:
    shown = CliRunner().invoke(cli.app, [*command, option])
    assert shown.exit_code == 0
    assert "Usage:" in shown.output


def test_the_page_of_commands_has_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for sub in getattr(command, "commands", {}) or [""]:
            assert f"billhook {name} {sub}".strip() in page


def test_help_and_version_do_not_import_torch() -> None:
    for option in ("--help", "--version"):
        code = (
            f"import sys; from billhook.cli.app import main; sys.argv = ['billhook', {option!r}]\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "assert not {'torch', 'numpy'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version_names_kernels_and_threads() -> None:
    shown = CliRunner().invoke(cli.app, ["--version"]).output
    assert f"billhook {billhook.__version__}" in shown
    assert "native kernels: in use (portable" in shown
    assert "threads from torch's pool" in shown


def test_the_shell_completes_commands_options_and_values(tmp_path: Path) -> None:
    def complete(words: str) -> str:
        environment = {"_BILLHOOK_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
        return subprocess.run(
            [str(Path(sys.executable).parent / "billhook")],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    assert "footprint" in complete("billhook foot")
    assert "--canonical-zeros" in complete("billhook convert --can")
    assert "mobilenet_v1" in complete("billhook train mob")
    assert "laptop-gnmt" in complete("billhook study run lap")


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)  # importing it now fails
    monkeypatch.setattr(cli, "app", lambda: importlib.import_module("altair"))
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "needs altair" in (message := capsys.readouterr().err)
    assert "pip install 'billhook[study]'" in message
    assert "in a checkout pip install '.[study]'" in message


def test_an_error_of_ours_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["billhook", "inspect", __file__])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("none.pt", "none.pt: No such file or directory"),
        ("no/x.safetensors", "x.safetensors: there is no folder {}"),
    ],
)
def test_an_error_of_the_system_names_the_file_and_no_number(
    path: str,
    end: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["billhook", "inspect", str(tmp_path / path)])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    message = capsys.readouterr().err.strip()
    assert "Errno" not in message
    assert message.endswith(end.format(tmp_path / "no"))


@pytest.mark.parametrize(
    "command",
    [["prune", "m", "--out", "n"], ["footprint", "mobilenet_v1"], ["bench", "m"], ["plan", "m"]],
)
def test_a_percentage_is_not_a_sparsity(command: list[str]) -> None:
    failed = CliRunner().invoke(cli.app, [*command, "--sparsity", "90"])
    assert failed.exit_code != 0
    assert str(failed.exception) == (
        "--sparsity 90 is not a share between 0 and 1: for 90% write 0.9"
    )


def test_a_folder_of_strange_files_is_not_imported_from(tmp_path: Path) -> None:
    for name in ("altair", "rich", "json", "torch"):
        (tmp_path / f"{name}.py").write_text(f"open('hostile {name}', 'w')\n")
    billhook.save({"weight": torch.eye(3)}, tmp_path / "eye.safetensors")
    billhook_in(tmp_path, "inspect", "eye.safetensors")
    billhook_in(tmp_path, "study", "report", ".")
    billhook_in(tmp_path, "footprint", "torch.nn:ReLU")  # looks here, but last
    assert not list(tmp_path.glob("hostile*"))


def test_a_function_of_the_folder_where_the_command_runs_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\ndef net(n=2): return torch.nn.Linear(n, 3)\n")
    shown = billhook_in(tmp_path, "footprint", "mine:net(n=4)", "--sparsity", "0", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["rows"][0]["nnz"] == 15


def test_inspect_as_json(tmp_path: Path) -> None:
    path = tmp_path / "eye.safetensors"
    billhook.save({"weight": torch.eye(64)}, path, encoding="bitmask")
    shown = json.loads(CliRunner().invoke(cli.app, ["inspect", str(path), "--json"]).stdout)
    assert shown["bytes"] == path.stat().st_size
    assert shown["tensors"] == [
        {
            "name": "weight",
            "dtype": "F32",
            "shape": [64, 64],
            "elements": 4096,
            "nonzero": 64,
            "sparsity": 1 - 1 / 64,
            "coding": "bitmask",
            "bytes": 64 * 4 + 512,
            "floor_bytes": billhook.inspect(path).tensors[0].floor_bytes,
        }
    ]


def test_convert_drops_negative_zeros_unless_told(tmp_path: Path) -> None:
    masked = torch.randn(64, 64) * (torch.rand(64, 64) < 0.1)
    torch.save({"weight": masked}, tmp_path / "masked.pt")
    assert int((masked.view(torch.int32) == -(2**31)).sum()) > 0  # -0.0

    def convert(target: str, *options: str) -> dict[str, int]:
        arguments = [str(tmp_path / "masked.pt"), str(tmp_path / target), "--json", *options]
        done = CliRunner().invoke(cli.app, ["convert", *arguments])
        assert done.exit_code == 0, done.exception
        report: dict[str, int] = json.loads(done.stdout)
        return report

    small, exact = convert("small"), convert("exact", "--no-canonical-zeros")
    assert small["bytes"] < exact["bytes"]
    assert (small["negative_zeros"], exact["negative_zeros"] > 0) == (0, True)
    shown = CliRunner().invoke(
        cli.app,
        ["convert", str(tmp_path / "masked.pt"), str(tmp_path / "x"), "--no-canonical-zeros"],
    )
    assert "--canonical-zeros would save" in shown.output
    assert "=True" not in shown.output


@pytest.mark.parametrize("target", ["a.safetensors", "./a.safetensors", "link", "hard"])
def test_convert_does_not_overwrite_what_it_reads(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    billhook.save({"weight": torch.eye(3)}, "a.safetensors")
    Path("link").symlink_to("a.safetensors")
    os.link("a.safetensors", "hard")
    before = Path("a.safetensors").read_bytes()
    failed = CliRunner().invoke(cli.app, ["convert", "a.safetensors", target, "--values", "F16"])
    assert "are the same file" in str(failed.exception)
    assert Path("a.safetensors").read_bytes() == before


def test_bench_and_plan_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STEADY_MALLOC.items():
        monkeypatch.setenv(name, value)  # else the command starts this very process anew
    measure = functools.partial(bench.run, rounds=2, peers=("eager",))
    monkeypatch.setattr(bench, "run", measure)
    model = "torch.nn:Linear(in_features=8, out_features=8)"
    arguments = ["bench", model, "--input", "1,8", "--sparsity", "0.5", "--json"]
    measured = json.loads(CliRunner().invoke(cli.app, arguments).stdout)
    assert measured["times"]["billhook"]["median_ms"] > 0
    assert {"model", "threads", "mode", "reason", "layers", "limits"} <= set(measured)
    options = ["--learning-rate", "0.1", "--steps", "1000", "--begin", "100", "--end", "600"]
    planned = json.loads(CliRunner().invoke(cli.app, ["plan", *options, "--json"]).stdout)
    assert planned["updates"][-1] == {"step": 600, "sparsity": 0.9, "learning_rate": 0.1}
    assert planned["warnings"] == []
