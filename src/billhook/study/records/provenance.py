"""Which code on what kind of machine: what a reader needs to weigh a result, and no names."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import billhook

__all__ = ["provenance"]


def provenance() -> dict[str, str]:
    """Commit, versions and machine of this process, without host names or paths.

    >>> sorted(provenance())
    ['billhook', 'commit', 'machine', 'numpy', 'python', 'scikit-learn', 'torch']
    """
    packages = {name: metadata.version(name) for name in ("numpy", "scikit-learn", "torch")}
    python = ".".join(map(str, sys.version_info[:3]))
    return {
        "billhook": billhook.__version__,
        "commit": _commit(),
        "machine": _machine(),
        "python": python,
        **packages,
    }


def _machine() -> str:
    return f"{_processor()}, {os.cpu_count()} logical cores, {platform.system()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the billhook that runs, where it runs from a checkout of its own."""
    source = Path(billhook.__file__)
    if not _git(source.parent, "ls-files", source.name):
        return "installed package"
    changed = _git(source.parent, "status", "--porcelain", "--", ".")
    return _git(source.parent, "rev-parse", "HEAD") + (", with local changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    """What git prints, or nothing where there is no git or no repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
