from __future__ import annotations

import os
import shutil

import matplotlib.pyplot as plt
import pytest

from ultraep_sim.report.results import read_run
from ultraep_sim.report.style import style

from .fake_run import write_fake_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no chromium here: apt-get install chromium, or name one in $CHROMIUM")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a file; after the test it must have said nothing and asked for nothing."""
    made = []

    def open_it(file, downloads=True):
        size = {"width": 1200, "height": 900}
        page = browser.new_page(viewport=size, accept_downloads=downloads)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        page.wait_for_selector("body[data-ready]")
        made.append((page, said, asked, file, downloads))
        return page

    yield open_it
    for page, said, asked, file, downloads in made:
        page.wait_for_timeout(150)
        assert said == []
        if downloads:  # one of what is in the page is no connection
            asked = [url for url in asked if not url.startswith("blob:")]
        assert asked == [file.as_uri()]
        page.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(write_fake_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def drawn():
    """Draw a figure in the project's style and close it afterwards."""
    made = []

    def draw(module, run):
        with style():
            made.append(module.figure(run))
            made[-1].canvas.draw()
        return made[-1]

    yield draw
    for figure in made:
        plt.close(figure)
