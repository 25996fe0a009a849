"""The playground with Colab's versions of Jupyter, in classic Notebook: there its ticks come from the page."""

import re
import site
import sys

import nbformat
import pytest
from colab import JUPYTER, environment
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_notebook
from pages import IN_PAGES, SCREENSHOTS, serving, within

pytestmark = IN_PAGES
CODE = f"""
import sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.path.insert(0, {str(ROOT)!r})
from nst_helpers.widgets import Playground
playground = Playground(size=256, steps=400)
playground
"""


@pytest.fixture(scope="module")
def python(pytestconfig):
    """Python with Colab's versions of Jupyter in an environment of their own, and all else from the present one."""
    folder = pytestconfig.cache.mkdir("colab") / f"jupyter{sys.version_info.major}.{sys.version_info.minor}"
    python = environment(folder, sys.executable, *JUPYTER)
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "main.pth").write_text("\n".join(site.getsitepackages()))
    return python


def run_cell(page, index, expected):
    """Run a cell, and say whether it printed within a second: what a kernel says before a page listens is lost."""
    page.evaluate(f"Jupyter.notebook.get_cell({index}).execute()")
    page.wait_for_timeout(1000)
    return expected in page.locator(".cell").nth(index).locator(".output_wrapper").inner_text()


@pytest.fixture
def page(browser, python, tmp_path):
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    codes = "print('listening')", CODE, "print(playground.painter.run.beta)"
    cells = [new_code_cell(code) for code in codes]
    nbformat.write(new_notebook(cells=cells, metadata=kernel), tmp_path / "colab.ipynb")
    options = "--no-browser", "--allow-root", "--ip=127.0.0.1", "--NotebookApp.token=", "--NotebookApp.password="
    with serving(tmp_path, "notebook", *options, f"--notebook-dir={tmp_path}", python=python) as (address, _):
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.goto(f"{address}/notebooks/colab.ipynb", timeout=60_000)
        ready = "(kernel => kernel?.is_connected() && kernel.widget_manager)(window.Jupyter?.notebook?.kernel)"
        page.wait_for_function(ready, timeout=90_000)
        within(60, lambda: run_cell(page, 0, "listening"), "a page that hears its kernel")
        yield page
        page.screenshot(path=SCREENSHOTS / "colab.png", full_page=True)
        page.close()


def test_ticks_paint_and_controls_steer(page):
    def caption():
        return page.locator("figcaption").nth(2).inner_text()

    def step():
        found = re.search(r"step (\d+)", caption())
        return int(found[1]) if found else 0

    def beta():
        page.evaluate("Jupyter.notebook.get_cell(2).execute()")
        printed = page.locator(".cell").nth(2).locator(".output_stdout")
        within(30, lambda: printed.count() and "[*]" not in page.locator(".cell").nth(2).inner_text(), "β printed")
        return float(printed.inner_text())

    page.evaluate("Jupyter.notebook.get_cell(1).execute()")
    page.locator("figcaption").nth(2).wait_for(timeout=90_000)
    page.wait_for_timeout(1000)
    assert step() == 0  # nothing paints before the reader presses play
    page.locator(".widget-play button").first.click()
    within(60, lambda: step() == 25, "a sketch")
    page.get_by_role("button", name="Start", exact=True).click()
    within(60, lambda: "256 px" in caption() and step() > 2, "painting at 256 px")
    before, then = beta(), step()
    row = page.locator(".widget-hbox", has=page.get_by_label("β, style")).last
    row.locator(".ui-slider-handle, .noUi-handle").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    within(20, lambda: step() > then + 2, "painting on")
    assert beta() > before
    page.get_by_role("button", name="Pause", exact=True).click()
    page.wait_for_timeout(1500)
    paused = step()
    page.wait_for_timeout(1500)
    assert step() == paused
    page.get_by_role("button", name="Step", exact=True).click()
    within(20, lambda: step() == paused + 1, "one step")
