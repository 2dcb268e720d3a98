"""Puts the wheel billhook-runtime together: ``make_wheel.py LIBRARY FOLDER [PLATFORM]``.

A wheel is a zip file with three files of metadata, so that no package is needed to build one.
"""

import base64
import hashlib
import re
import sys
import sysconfig
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAME = "billhook_runtime"
LIMIT = 1_000_000  # bytes


def metadata(version: str) -> str:
    """What pip shows of it."""
    return (
        f"Metadata-Version: 2.1\nName: billhook-runtime\nVersion: {version}\n"
        "Summary: Runs sparse networks that billhook compiled, with numpy alone.\n"
        "License: Apache-2.0\nRequires-Python: >=3.10\nRequires-Dist: numpy>=1.22\n"
    )


def build(library: Path, folder: Path, platform: str) -> Path:
    """Writes the wheel and returns its path."""
    source = (ROOT / "src/billhook/__init__.py").read_text()
    found = re.search(r'^__version__ = "(.*)"', source, re.MULTILINE)
    assert found is not None, "the version is missing"
    version, info = found[1], f"{NAME}-{found[1]}.dist-info"
    tag = f"py3-none-{platform}"
    wheel = f"Wheel-Version: 1.0\nGenerator: billhook\nRoot-Is-Purelib: false\nTag: {tag}\n"
    files = {
        f"{NAME}/__init__.py": (ROOT / "runtime" / NAME / "__init__.py").read_bytes(),
        f"{NAME}/libbillhook.so": library.read_bytes(),
        f"{info}/METADATA": metadata(version).encode(),
        f"{info}/WHEEL": wheel.encode(),
        f"{info}/licenses/LICENSE": (ROOT / "LICENSE").read_bytes(),
    }
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    files[f"{info}/RECORD"] = ("".join(lines) + f"{info}/RECORD,,\n").encode()
    path = folder / f"{NAME}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    size = path.stat().st_size
    assert size < LIMIT, f"the wheel has {size} bytes, and is to have less than {LIMIT}"
    return path


if __name__ == "__main__":
    own = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    made = build(Path(sys.argv[1]), Path(sys.argv[2]), (*sys.argv[3:], own)[0])
    print(f"{made}: {made.stat().st_size:,} bytes")
