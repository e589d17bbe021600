"""The same viewer behind four doors, and what each of them guards against."""

import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import urlopen

import h5py
import numpy as np
import pytest
from matplotlib.image import imread
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from viewer_runs import SCRIPT, everything, until, write

from probes import ProbeManager, open_run
from probes_viewer import Frame, report, serve
from probes_viewer.contents import HDF5Contents, as_json
from probes_viewer.page import STATIC
from probes_viewer.server import _listening


def shot(page, frame=None):
    """The pixels of the picture of a stream."""
    place = (frame or page).locator("figure .plot").first
    place.wait_for()
    page.wait_for_timeout(300)
    return imread(io.BytesIO(place.screenshot()))


@pytest.fixture
def tensorboard(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", str(port)]
    with subprocess.Popen(
        [*command, "--load_fast=false"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        for _ in range(300):
            try:
                urlopen(f"http://127.0.0.1:{port}/data/environment")
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
        process.terminate()


@pytest.mark.slow
def test_the_four_doors_show_the_same_pixels(look, folder, served, tensorboard, report_file, tmp_path):
    where = "#run=all&stream=k/spectrum"
    by_file = look(f"file://{report_file}{where}")
    by_server = look(f"{served}{where}")
    notebook = tmp_path / "notebook.html"
    frame = open_run(folder / "all")["k/spectrum"].show(height=900)._repr_html_()
    notebook.write_text(f"<!doctype html><meta charset=utf-8><body style='margin: 0'>{frame}</body>", encoding="utf-8")
    in_notebook = look(f"file://{notebook}", wait="iframe")
    in_tab = look(f"{tensorboard}#probes", wait="iframe", expected="CONNECTION_REFUSED")  # it ends before the page
    until(in_tab, "Array.from(document.querySelectorAll('iframe')).some((f) => f.src.includes('name=probes'))")
    tab = next(each for each in in_tab.frames if "name=probes" in each.url)
    tab.wait_for_selector("nav a")
    tab.evaluate(f"location.hash = {json.dumps(where)}")
    expected = shot(by_file)
    assert len(np.unique(expected.reshape(-1, expected.shape[-1]), axis=0)) > 50
    np.testing.assert_array_equal(shot(by_server), expected)
    np.testing.assert_array_equal(shot(in_notebook, in_notebook.frames[1]), expected)
    np.testing.assert_array_equal(shot(in_tab, tab), expected)


def test_the_first_view_needs_no_click(look, report_file):
    page = look(f"file://{report_file}")
    words = page.inner_text("main")
    assert "Loss of the loop" in words and "What stands out" in words
    until(page, "document.querySelector('.findings li')")
    found = page.inner_text(".findings")
    assert "The loss has fallen" in found and "medians of its first and last three" in found


def test_two_runs_are_overlaid_side_by_side_or_subtracted(look, served):
    page = look(f"{served}#run=all&run=other&stream=k/scalar")
    assert page.locator(".legend .item").all_inner_texts() == ["all", "other"]
    page.keyboard.press("d")
    until(page, "document.querySelector('figure').figure.data?.length === 1")
    values = page.evaluate("Array.from(document.querySelector('figure').figure.data[0].value)")
    assert values == [-1.0] * 10  # at the steps that both have
    errors = page.evaluate("Array.from(document.querySelector('figure').figure.data[0].error)")
    np.testing.assert_allclose(errors, np.sqrt(0.5))
    page = look(f"{served}#run=all&run=other&stream=k/spectrum")
    assert page.locator(".charts h4").all_inner_texts() == ["all", "other"]


def test_runs_without_rows_or_that_cannot_be_read_are_explained(look, served):
    page = look(f"{served}#run=empty", wait=".empty")
    assert "Nothing has been measured yet" in page.inner_text("main")
    page = look(f"{served}#run=damaged", wait=".alarm:not(:empty)")
    assert "cannot be read" in page.inner_text("main")


def test_a_run_that_ended_without_a_row_says_why(look, tmp_path):
    with ProbeManager(nn.Linear(1, 1), ["layers"], sinks=["hdf5"], log_dir=tmp_path / "none").attach():
        pass
    page = look(f"file://{report(tmp_path / 'none', tmp_path / 'none.html')}", wait=".findings li")
    assert page.inner_text(".empty") == "Nothing was measured."
    found = page.inner_text(".findings li")
    assert found.startswith("Nothing was measured. No optimizer step was seen.") and found.endswith("events, step 0")
    assert not page.locator(".findings a").count()  # there is no picture of events


def test_a_name_with_anything_in_it(look, served):
    page = look(f"{served}#run=all")
    page.click("summary")
    assert "a b/q\"'<b>&amp; ü" in page.inner_text(".menu")
    page.locator(".run", has_text="q\"'").locator("input").check()
    until(page, "document.querySelectorAll('main h1').length === 2")
    page.goto(page.url.split("#")[0] + "#run=all&stream=k/layers")
    page.wait_for_selector("figure .plot canvas")
    assert SCRIPT in page.inner_text("main")


def test_rows_appear_while_training_writes(look, server_over, tmp_path):
    page = look(server_over(tmp_path / "later"), wait=".empty")
    assert "no run here yet" in page.inner_text("main")
    write(tmp_path / "later" / "one", [(step, everything(step)) for step in (0, 1)])
    page.wait_for_selector("figure[data-stream='loop/loss'] canvas", timeout=15_000)
    rows = "document.querySelector('figure')?.figure.data?.[0]?.step.length"
    assert page.evaluate(rows) == 2
    (tmp_path / "later" / "one" / "run.h5").unlink()
    write(tmp_path / "later" / "one", [(step, everything(step)) for step in range(6)])
    until(page, f"{rows} === 6")


def test_a_run_that_is_written_anew_is_read_anew(look, server_over, tmp_path):
    write(tmp_path / "one", [(step, everything(step)) for step in range(4)])
    page = look(f"{server_over(tmp_path)}#run=one&stream=k/scalar")
    values = "Array.from(document.querySelector('figure')?.figure.data?.[0]?.value ?? []).join()"
    until(page, f"{values} === '0,1,2,3'")
    for shift, rows in ((10.0, 4), (20.0, 6)):  # as many rows, and more
        (tmp_path / "one" / "run.h5").unlink()
        page.wait_for_timeout(2500)
        assert page.locator("figure canvas").count() and "stream=k%2Fscalar" in page.url.replace("k/s", "k%2Fs")
        write(tmp_path / "one", [(step, everything(step, shift)) for step in range(rows)])
        expected = ",".join(str(int(step + shift)) for step in range(rows))
        until(page, f"{values} === '{expected}'")


def test_a_run_that_begins_appears_in_the_list_that_is_open(look, server_over, tmp_path):
    write(tmp_path / "one", [(0, everything(0))])
    page = look(server_over(tmp_path))
    page.click("summary")
    write(tmp_path / "two", [(0, everything(0))])
    until(page, "Array.from(document.querySelectorAll('.run span'), (s) => s.textContent).includes('two')")
    assert page.is_visible(".menu")


def test_a_difference_of_what_only_one_run_has_is_refused(look, server_over, tmp_path):
    write(tmp_path / "one", [(0, everything(0))])
    write(tmp_path / "two", [(0, list(everything(0))[:1])])
    write(tmp_path / "three", [(0, everything(0, 5.0))])
    page = look(
        f"{server_over(tmp_path)}#run=one&run=two&run=three&stream=k/scalar&difference=1", wait=".alarm:not(:empty)"
    )
    assert "two has no row of this stream: no difference" in page.inner_text("figure")


def test_a_link_to_a_run_that_is_gone_says_so(look, served):
    page = look(f"{served}#run=gone", wait=".alarm:not(:empty)")
    assert "There is no run 'gone'" in page.inner_text("main")


@pytest.mark.parametrize("where", ["", "#run=all&stream=k/scalar"])
def test_an_address_with_an_old_token_says_so(look, served, where):
    page = look(f"{served}2{where}", wait=".alarm:not(:empty)", expected="403")
    words = "No answer: The address must end with ?token=..., as `probes serve` has printed it."
    assert page.inner_text(".alarm") == words
    page.wait_for_timeout(2500)
    assert page.inner_text(".alarm") == words  # nothing is shown that could be older


def test_a_run_that_is_gone_is_shown_as_it_was(look, server_over, tmp_path):
    write(tmp_path / "one", [(step, everything(step)) for step in range(3)])
    write(tmp_path / "bad", [(0, everything(0))])
    (tmp_path / "bad" / "run.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(200)))
    page = look(f"{server_over(tmp_path)}#run=one&run=bad&stream=k/scalar")
    assert "as run files have. `probes repair`" in page.inner_text("main")
    shutil.rmtree(tmp_path / "one")
    until(page, "document.querySelector('.alarm').textContent.length")
    assert page.inner_text(".alarm >> nth=0") == "one: There is no run 'one'. What is shown is older."
    assert page.locator("figure canvas").count()


def test_a_frame_in_a_notebook_can_be_walked_through(look, folder, tmp_path):
    """It has no address that could be changed."""
    frames = [open_run(folder / "all").show(), open_run(folder / "other")["k/spectrum"].show()]
    file = tmp_path / "notebook.html"
    body = "".join(frame._repr_html_() for frame in frames)
    file.write_text(f"<!doctype html><meta charset=utf-8>{body}", encoding="utf-8")
    page = look(f"file://{file}", wait="iframe")
    first, second = page.frames[1:]
    first.wait_for_selector("nav a")
    first.click("nav a:text-is('cka')")
    first.wait_for_selector("figure[data-stream='k/cka'] canvas")
    first.click("text=Overview")
    first.wait_for_selector("main h1")
    assert second.locator("nav [aria-current]").inner_text() == "spectrum"


def test_settings_that_are_no_numbers_are_told_from_missing_ones(look, tmp_path):
    write(tmp_path / "run", [(0, everything(0))], {"rate": float("nan"), "clip": {"most": float("inf")}, "none": None})
    page = look(f"file://{report(tmp_path / 'run', tmp_path / 'run.html')}")
    words = page.text_content(".about")
    assert "ratenan" in words and '{"most":"inf"}' in words and "nonenull" in words


def test_two_hundred_runs_can_be_searched(look, server_over, tmp_path):
    write(tmp_path / "run000", [(0, everything(0))])
    for number in range(1, 200):
        shutil.copytree(tmp_path / "run000", tmp_path / f"run{number:03}")
    page = look(server_over(tmp_path))
    page.click("summary")
    assert page.locator(".run").count() == 200
    field, first = (page.locator(each).bounding_box() for each in ("[aria-label='find a run']", ".run >> nth=0"))
    assert first["y"] >= field["y"] + field["height"]
    page.locator(".run").last.scroll_into_view_if_needed()
    page.fill("[aria-label='find a run']", "run17")
    assert page.locator(".run:visible").count() == 10


# ------------------------------------------------------------------------------------------------- without a browser


def answered(url):
    try:
        with urlopen(url) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_data_needs_the_token(served):
    base = served.split("?")[0]
    assert answered(f"{base}api/runs?token=secret")[0] == 200
    for query in ("", "?token=", "?token=secre", "?token=secret2", "?token=%FF", "?token=%C3%BC"):
        status, words, _ = answered(f"{base}api/runs{query}")
        assert status == 403 and "token" in words


@pytest.mark.parametrize(("host", "status"), [("localhost:6007", 200), ("[::1]:6007", 200), ("evil.example:6007", 403)])
def test_without_a_token_no_other_name_leads_here(folder, host, status):
    from werkzeug.test import Client

    from probes_viewer.server import application

    answer = Client(application(folder, None)).get("/api/runs", headers={"Host": host})
    assert answer.status_code == status


@pytest.mark.parametrize("run", ["..", "../..", "/etc", "all/../..", "nope", "", "all/run.h5"])
def test_no_request_leads_out_of_the_directory(served, run):
    status, words, _ = answered(f"{served.replace('/?', '/api/catalogue?')}&run={run}")
    assert status == 200 and words.startswith("There is no run")


def test_the_tab_shows_the_runs_of_each_directory_that_logdir_spec_names(folder, tmp_path):
    from argparse import Namespace

    from tensorboard.plugins.base_plugin import TBContext
    from werkzeug.test import Client

    from probes_viewer.tensorboard import ProbesPlugin

    write(tmp_path / "more:x" / "deep" / "one", [(0, everything(0))])
    write(tmp_path / "again" / "more:x", [(0, everything(0))])
    places = f"first:{folder / 'all'},{tmp_path / 'more:x'},{tmp_path / 'again' / 'more:x'},gs://bucket/x,"
    plugin = ProbesPlugin(TBContext(logdir="", flags=Namespace(logdir_spec=places)))
    assert plugin.is_active()
    routes = plugin.get_plugin_apps()
    names = {run["name"] for run in Client(routes["/api/runs"]).get("/").json}
    again = (tmp_path / "again" / "more:x").as_posix().strip("/")
    assert names == {"first", "more:x/deep/one", again}
    for name in names:
        answer = Client(routes["/api/catalogue"]).get("/", query_string={"run": name})
        assert answer.status_code == 200 and answer.json["streams"]
    for name in ("firs", "first/..", "all", "first/all", "more:x/../again", str(folder / "all")):
        assert Client(routes["/api/catalogue"]).get("/", query_string={"run": name}).text.startswith("There is no run")
    for nothing in (Namespace(logdir_spec=""), Namespace(), None):
        assert not ProbesPlugin(TBContext(logdir="", flags=nothing)).is_active()


@pytest.mark.parametrize("path", ["../page.py", "%2e%2e/page.py", "static/app.js", "api", "api/nothing"])
def test_nothing_else_is_served(served, path):
    assert answered(served.replace("/?", f"/{path}?"))[0] == 404


def test_the_page_allows_no_script_but_its_own(served):
    _, _, headers = answered(served)
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe-inline" not in headers["Content-Security-Policy"].split("style-src")[0]


def test_a_stream_that_is_not_there_is_named(served):
    url = served.replace("/?", "/api/stream?") + "&run=all&name="
    for name in ("k/nothing", "k", "", "../x", "events"):
        status, words, _ = answered(url + name)
        assert status == 200 and words == f"There is no stream {name!r}."
    assert "`after` must be" in answered(f"{url}k/scalar&after=-1")[1]


def test_bytes_of_a_stream_are_its_numbers(folder):
    data = HDF5Contents(folder / "all" / "run.h5").stream("k/spectrum", after=2)
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    assert header["rows"] == 10 and (4 + length) % 8 == 0
    place, found = 4 + length, {}
    for name, kind, shape in header["arrays"]:
        found[name] = np.frombuffer(data, f"<{kind}", int(np.prod(shape)), place).reshape(shape)
        place += -(-found[name].nbytes // 8) * 8
    with_all = open_run(folder / "all")["k/spectrum"]
    np.testing.assert_array_equal(found["value"], with_all["value"].values[2:])
    np.testing.assert_array_equal(found["step"], with_all["step"].values[2:])


def test_json_is_what_a_browser_reads():
    read = json.loads(as_json({"a": [np.float32("nan"), float("inf"), np.int64(3)], 2: (1.5,)}))
    assert read == {"a": [None, None, 3], "2": [1.5]}


def test_a_report_is_one_file_that_asks_for_nothing(report_file):
    text = report_file.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", text) and "default-src 'none'" in text
    assert SCRIPT not in text  # only escaped, in the data


def test_a_report_is_thinned_to_its_size_and_says_so(look, tmp_path):
    from probes.measurement import Measurement

    values = np.random.default_rng(0).normal(size=(400, 500)).astype(np.float32)
    rows = [(step, [Measurement("k/big", values[step], ("unit",)), *everything(step)]) for step in range(400)]
    write(tmp_path / "run", rows)
    file = report(tmp_path / "run", tmp_path / "out" / "report.html", max_megabytes=0.5)
    assert file.stat().st_size < 1e6
    page = look(f"file://{file}#stream=k/big")
    assert re.search("thinned for this page: (101|51) of 400 rows", page.inner_text("figcaption"))


def test_wrong_calls_are_named(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="no run in"):
        report(tmp_path, tmp_path / "x.html")
    with pytest.raises(ValueError, match="max_megabytes"):
        report(folder / "all", tmp_path / "x.html", max_megabytes=0)
    with pytest.raises(ValueError, match="`runs`"):
        report([], tmp_path / "x.html")
    with pytest.raises(ValueError, match="token"):
        serve(folder, host="0.0.0.0", token="")
    with pytest.raises(ValueError, match="`port` must be from 0 to 65535"):
        serve(folder, port=99999)
    with pytest.raises(ValueError, match="must be a directory"):
        serve(folder / "all" / "run.h5")
    assert not (tmp_path / "x.html").exists()


def test_ports_that_are_taken_are_passed_over_without_a_word(capfd):
    with _listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with _listening("127.0.0.1", port) as next_one:
            assert port < next_one.getsockname()[1] < port + 20
    assert capfd.readouterr() == ("", "")
    with pytest.raises(OSError, match=r"nothing can be served at 192\.0\.2\.1, port 6007: [^(]*$"):
        _listening("192.0.2.1", 6007)  # an address for documentation, so that no machine has it


def test_ctrl_c_ends_the_server_while_pages_ask(folder):
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests may run without it
        "from probes.commands.cli import main; main()"
    )
    command = [sys.executable, "-c", script, "serve", folder, "--token", "t"]
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address, over = process.stdout.readline().split("?")[0], threading.Event()

        def ask():
            while not over.is_set():
                with suppress(OSError, HTTPException):
                    urlopen(f"{address}api/catalogue?run=all&token=t").read()
                    urlopen(f"{address}api/findings?run=all&token=t").read()

        asking = [threading.Thread(target=ask) for _ in range(3)]
        for each in asking:
            each.start()
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        try:
            said = process.communicate(timeout=60)
        finally:
            process.kill()
            over.set()
            for each in asking:
                each.join()
    assert (process.returncode, *said) == (0, "\n", "")


def test_show_needs_a_tree_of_a_run(folder):
    import xarray

    assert isinstance(open_run(folder / "all").show(), Frame)
    with pytest.raises(ValueError, match="open_run"):
        xarray.DataTree().show()


def test_event_files_alone_are_shown_and_say_what_they_lack(look, tmp_path):
    with SummaryWriter(str(tmp_path / "events")) as writer:
        for step in range(20):
            writer.add_scalar("loss/train", 1.0 / (1 + step), step)
    file = report(tmp_path / "events", tmp_path / "events.html")
    page = look(f"file://{file}")
    assert "read from event files" in page.inner_text("main")
    assert "Not looked for" in page.inner_text("main")


def test_the_script_in_all_is_under_100_000_bytes():
    sizes = {path.name: path.stat().st_size for path in STATIC.rglob("*") if path.suffix not in (".css",)}
    assert all(name.endswith(".js") for name in sizes) and sum(sizes.values()) < 100_000, sizes


def test_each_stream_is_nexus_data_that_other_viewers_draw(folder, tmp_path):
    with h5py.File(folder / "all" / "run.h5") as file:
        for name, axes in (("loop/loss", ["step"]), ("k/two", ["step", "output", "frequency"])):
            about = file[name].attrs
            assert about["NX_class"] == "NXdata" and about["signal"] == "value"
            assert list(about["axes"]) == axes and all(len(file[name][axis].shape) == 1 for axis in axes)
    old = tmp_path / "run.h5"  # as files were before
    shutil.copy(folder / "all" / "run.h5", old)
    with h5py.File(old, "a") as file:
        for name in ("loop/loss", "k/two"):
            for attribute in ("NX_class", "signal", "axes"):
                del file[name].attrs[attribute]
    assert open_run(old)["k/two"].equals(open_run(folder / "all")["k/two"])


def test_a_file_is_searched_for_bad_heaps_once_however_many_streams_it_has(tmp_path, monkeypatch):
    from probes.sinks.hdf5 import superblock

    write(tmp_path / "run", [(step, everything(step)) for step in range(3)])
    seen, check = [], superblock.check_heaps
    monkeypatch.setattr(superblock, "check_heaps", lambda path: (seen.append(path), check(path)))
    report(tmp_path / "run", tmp_path / "run.html")
    assert len(seen) == 1
    (tmp_path / "run" / "run.h5").unlink()
    write(tmp_path / "run", [(step, everything(step)) for step in range(4)])
    report(tmp_path / "run", tmp_path / "run.html")
    assert len(seen) > 1  # another state
