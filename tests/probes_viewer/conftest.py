"""Runs of every kind, and a browser to look at them with; without one, the tests that need it are skipped."""

import shutil
import threading
from pathlib import Path

import h5py
import pytest
from viewer_runs import SCRIPT, STEPS, everything, write


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A directory of runs: ``all``, ``other``, one with a bad name, one without a row, one that is no run file."""
    folder = tmp_path_factory.mktemp("runs")
    write(folder / "all", [(step, everything(step)) for step in STEPS], {"model": "Net", "lr": SCRIPT})
    write(folder / "other", [(step, everything(step, 1.0)) for step in [*STEPS, 12]], {"model": "Net"})
    write(folder / "a b" / "q\"'<b>&amp; ü", [(step, everything(step)) for step in STEPS[:3]])
    write(folder / "empty", [(0, everything(0))])
    with h5py.File(folder / "empty" / "run.h5", "a") as file:  # as after a resume from before the first row
        for name in list(file):
            if name not in ("events", "sessions"):
                del file[name]
    (folder / "damaged").mkdir()
    (folder / "damaged" / "run.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(200)))
    return folder


@pytest.fixture(scope="session")
def chromium():
    """Starts a browser with some more arguments."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        yield lambda *more: started.chromium.launch(executable_path=path, args=["--no-sandbox", *more])


@pytest.fixture(scope="session")
def browser(chromium):
    opened = chromium()
    yield opened
    opened.close()


@pytest.fixture
def look(browser):
    """Opens an address; whatever the console says, or is thrown, or is asked of the network elsewhere, fails."""
    pages, complaints = [], []

    def note(message, expected):
        if message.type == "error" and not (expected and expected in message.text):
            complaints.append(message.text)

    def open_page(url, wait="figure .plot canvas, .empty", expected="", **settings):
        page = browser.new_context(
            viewport={"width": 1300, "height": 900}, accept_downloads=True, **settings
        ).new_page()
        pages.append(page)
        page.on("console", lambda message: note(message, expected))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        if wait:
            page.wait_for_selector(wait, timeout=20_000)
        return page

    yield open_page
    stolen = [page.evaluate("window.stolen") for page in pages]
    for page in pages:
        page.context.close()
    assert not complaints, complaints
    assert not any(stolen), "a name was run as a script"


@pytest.fixture(scope="session")
def server_over():
    """Starts servers over directories and returns their addresses."""
    from werkzeug.serving import make_server

    from probes_viewer.server import application

    started = []

    def start(folder, token=None):
        server = make_server("127.0.0.1", 0, application(folder, token), threaded=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.port}/"

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def served(folder, server_over):
    """The address of a server over the directory of runs, with its token."""
    return f"{server_over(folder, 'secret')}?token=secret"


@pytest.fixture(scope="session")
def report_file(folder, tmp_path_factory):
    from probes_viewer import report

    return report(folder / "all", Path(tmp_path_factory.mktemp("report")) / "all.html")
