import shutil

import pytest

from .browser import CHROMIUM, COUNT, FLAGS, served, short_clip, wait_for


@pytest.fixture(scope="session")
def chromium():
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    film = short_clip(folder / "short.mp4", COUNT)
    with served(folder, str(film)) as (link, _):
        yield link, folder


@pytest.fixture
def open_page(page, studio, request):
    """The page on a film of its own, with one object that has no masks yet."""
    link, folder = studio
    name = f"{request.node.name}.mp4"
    shutil.copy(folder / "short.mp4", folder / name)
    page.goto(link)
    wait_for(page, "ready")
    page.select_option("#files", name)
    page.wait_for_function("() => studio.project()?.objects.length === 0")
    page.wait_for_selector("body[data-frame='0']")
    page.click("#add")
    page.wait_for_selector("#objects li.chosen")
    return page
