"""The page in a real browser: it draws, answers to hovering, loads nothing and runs no text."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from billhook.study.grid import DENSE, LARGE, LONGER, SPARSE
from billhook.study.records.reading import read_table
from billhook.study.records.store import Store
from billhook.study.report.output import write_report
from billhook.study.report.report import load_report
from billhook.tasks.digits import Digits

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--force-device-scale-factor=1", "--window-size=1250,4500"),
)


@pytest.fixture(scope="module")
def folder(study_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study in whose files someone put markup wherever text may stand."""
    folder = tmp_path_factory.mktemp("hostile") / "results"
    shutil.copytree(study_results, folder)
    manifest = json.loads((folder / "study.json").read_text())
    manifest["provenance"]["machine"] = HOSTILE
    (folder / "study.json").write_text(json.dumps(manifest))
    _edit(folder / "rows.csv", lambda line: line | ({} if line["chosen"] == "1" else _FAILED))
    _edit(folder / "layers.csv", lambda line: line | {"tensor": line["tensor"] + HOSTILE})
    store = Store(folder)
    write_report(load_report(store), store)
    return folder


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    paths = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in paths:
        pytest.skip("no chromium and chromedriver here: see docs/development.md")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for flag in (*FLAGS, f"--user-data-dir={folder.parent / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(paths[1]))
    driver.get_log("performance")
    driver.get((folder / "report.html").as_uri())
    _drawn(driver, "light")
    yield driver
    driver.quit()


def test_curves_are_of_what_validation_measured(study_results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(study_results, folder)
    manifest = json.loads((folder / "study.json").read_text())
    first, _ = manifest["study"]["metrics"]
    assert first["name"] == manifest["study"]["metric"]
    first["test_only"] = True
    (folder / "study.json").write_text(json.dumps(manifest))
    _edit(folder / "curves.csv", lambda line: {k: v for k, v in line.items() if k != first["name"]})
    store = Store(folder)
    write_report(load_report(store), store)
    page = (folder / "report.html").read_text()
    section = page[page.index("While training") :]
    assert 'id="chart-' in section[: section.index("Sparsity of every layer")]
    assert f"validation {Digits.metrics[1].label}" in page


def test_the_glossary_explains_every_arm(study_results: Path) -> None:
    page = (study_results / "report.html").read_text()
    terms = page[page.index("<summary>Glossary") : page.index("<h2>Tables")]
    assert all(f"<dt>{arm}</dt>" in terms for arm in (LARGE, SPARSE, DENSE, LONGER))


def test_every_chart_is_drawn_and_the_console_is_silent(browser: Any) -> None:
    charts = browser.execute_script(
        "return document.querySelectorAll('.charts > div > div').length"
    )
    drawn = browser.execute_script("return document.querySelectorAll('.charts svg').length")
    assert charts == drawn >= 7
    assert browser.get_log("browser") == []


def test_nothing_is_loaded_but_the_page(browser: Any, folder: Path) -> None:
    asked = {
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    }
    ours = (folder / "report.html").as_uri()
    browsers_own = ("data:", "chrome:", "chrome-untrusted:")  # such as the page of a new tab
    assert {url for url in asked if not url.startswith(browsers_own)} <= {ours}


def test_markup_in_the_results_stays_text(browser: Any) -> None:
    assert browser.execute_script("return window.pwned") is None
    text = browser.execute_script("return document.body.textContent")
    assert text.count(HOSTILE) >= 2  # the machine, and a failed run's reason
    assert "<script>" in browser.execute_script(
        "return document.getElementById('chart-6-0').textContent"  # an axis of layers
    )


def test_hovering_shows_the_values(browser: Any, folder: Path) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    marks = browser.find_elements(By.CSS_SELECTOR, "#chart-0-0 .mark-symbol path[aria-label]")
    mark = next(m for m in marks if "small-dense" in m.get_attribute("aria-label"))
    ActionChains(browser).move_to_element(mark).perform()
    shown = browser.find_element(By.ID, "vg-tooltip-element").text
    assert "network" in shown
    assert "small-dense width 12" in shown
    first = load_report(Store(folder)).findings[0][0]
    assert f"{100 * first.comparisons[0].dense.mean:.2f}" in shown


def test_dark_readers_get_dark_charts(browser: Any) -> None:
    media = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    _drawn(browser, "dark")
    axis = browser.execute_script(
        "return getComputedStyle(document.querySelector('#chart-0-0 .role-axis-label text')).fill"
    )
    assert min(int(part) for part in axis[4:-1].split(",")) > 200  # light text


_FAILED = {"failure": HOSTILE}


def _edit(path: Path, change: Any) -> None:
    lines = [change(line) for line in read_table(path)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _drawn(driver: Any, theme: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    script = "return document.documentElement.dataset.drawn"
    WebDriverWait(driver, 30).until(lambda d: d.execute_script(script) == theme)
