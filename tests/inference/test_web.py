"""The runtime as WebAssembly, in a real browser: the programs of runtime/tests/vectors."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BUILT, VECTORS = ROOT / "build/runtime-wasm", ROOT / "runtime/tests/vectors"
TYPES = {"float32": "F32", "int64": "I64", "int32": "I32", "bool": "BOOL"}
NAMES = ("apart", "attention", "excited", "fused", "maps", "picture", "resized")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync")
RUN = """
const [file, given, samples, done] = arguments;
const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
(async () => {
  const program = await Program.open(bytes(file)), arrays = {};
  for (const [name, [type, text]] of Object.entries(given))
    arrays[name] = new TYPES[type](bytes(text).buffer);
  const made = program.run(arrays, samples);
  return Object.fromEntries(Object.entries(made).map(([name, y]) => [name, Array.from(y)]));
})().then(done, (error) => done(error.message));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    paths = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in paths:
        pytest.skip("no chromium and chromedriver here: see docs/development.md")
    if not (BUILT / "billhook.js").exists():
        pytest.skip("`make runtime-wasm` has not been run")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(paths[1]))
    driver.set_script_timeout(120)
    driver.get((BUILT / "index.html").as_uri())
    yield driver
    driver.quit()


def ran(browser: Any, program: bytes, inputs: dict[str, Any], samples: int) -> Any:
    """The outputs by name, or what the page says is wrong."""
    given = {
        name: (TYPES[str(x.dtype)], base64.b64encode(x.tobytes()).decode())
        for name, x in inputs.items()
    }
    return browser.execute_async_script(RUN, base64.b64encode(program).decode(), given, samples)


def arrays(name: str, way: str) -> dict[str, Any]:
    begin = f"{name}.{way}."
    return {path.name[len(begin) : -4]: np.load(path) for path in VECTORS.glob(f"{begin}*.npy")}


@pytest.mark.parametrize("name", NAMES)
def test_a_program_gives_what_torch_gives(browser: Any, name: str) -> None:
    program = (VECTORS / f"{name}.billhook.safetensors").read_bytes()
    inputs, wanted = arrays(name, "in"), arrays(name, "out")
    samples = len(next(iter(inputs.values())))
    made = ran(browser, program, inputs, samples)
    assert isinstance(made, dict), made
    assert made.keys() == wanted.keys()
    for each, y in wanted.items():
        error = np.linalg.norm(np.float32(made[each]) - y.ravel()) / np.linalg.norm(y)
        assert error <= 1e-5


def test_what_is_wrong_is_said(browser: Any) -> None:
    program = (VECTORS / "maps.billhook.safetensors").read_bytes()
    (x,) = arrays("maps", "in").values()
    for file, inputs, words in (
        (program[:-1], {"input": x}, "beyond"),
        (b"\0" * 100, {"input": x}, "json"),
        (program, {"input": x[:, :1]}, "must be"),
        (program, {}, "must be"),
    ):
        said = ran(browser, file, inputs, len(x))
        assert isinstance(said, str), said
        assert words in said.lower(), said


def test_the_page_shows_a_program(browser: Any) -> None:
    path = VECTORS / "maps.billhook.safetensors"
    browser.find_element("id", "file").send_keys(str(path))
    result = browser.find_element("id", "result")
    wait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
    wait(browser, 60).until(lambda _: len(result.text) > 1)
    assert result.text.startswith("takes input: F32 (samples, ")
    assert "one sample takes" in result.text
