"""Going about in the page: back, links, lists that keep their place, frames, print."""

import pytest
from viewer_runs import everything, until, write

from probes import open_run
from probes_viewer import report


def test_back_leads_to_the_stream_before(look, served):
    page = look(served)
    for name in ("scalar", "spectrum"):
        page.click(f"nav a:text-is('{name}')")
        page.wait_for_selector(f"figure[data-stream='k/{name}'] canvas")
    page.go_back()
    page.wait_for_selector("figure[data-stream='k/scalar'] canvas")
    page.go_back()
    page.wait_for_selector("main h1")


def test_a_link_of_a_stream_can_be_opened_elsewhere(look, served):
    page = look(f"{served}#run=all&stream=k/spectrum&values=log")
    link = page.locator("nav a:text-is('scalar')")
    with page.context.expect_page() as opened:
        link.click(modifiers=["ControlOrMeta"])
    opened.value.wait_for_selector("figure[data-stream='k/scalar'] canvas")
    assert page.evaluate("document.querySelector('figure').dataset.stream") == "k/spectrum"


def test_the_list_of_streams_keeps_its_place(look, served):
    page = look(served)
    page.set_viewport_size({"width": 1300, "height": 300})
    page.evaluate("document.querySelector('nav').scrollTop = 200")
    page.click("nav a >> nth=8")
    assert page.evaluate("document.querySelector('nav').scrollTop") == 200
    for _ in range(30):
        page.keyboard.press("j")
    box = page.locator("nav [aria-current]").bounding_box()
    assert box["y"] >= 46 and box["y"] + box["height"] <= 300


def test_a_click_in_a_frame_does_not_move_the_page_around_it(look, folder, tmp_path):
    file = tmp_path / "notebook.html"
    tall = '<p style="height: 600px">text</p>'
    frame = open_run(folder / "all").show()._repr_html_()
    file.write_text(f"<!doctype html><meta charset=utf-8>{tall}{frame}{tall}", encoding="utf-8")
    page = look(f"file://{file}", wait="iframe")
    page.evaluate("scrollTo(0, 500)")
    inside = page.frames[1]
    inside.wait_for_selector("nav a")
    inside.evaluate("document.querySelectorAll('nav a')[3].click()")
    inside.wait_for_selector("[aria-current]")
    assert page.evaluate("scrollY") == 500


def test_the_last_run_stays_ticked_and_escape_closes_the_list(look, served):
    page = look(f"{served}#run=other")
    page.click("summary")
    box = page.get_by_label("other", exact=True)
    box.click()
    until(page, "document.querySelector('[aria-label=other]').checked")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.querySelector('.runs').open")


def test_a_report_of_several_runs_begins_with_all_of_them(look, folder, tmp_path):
    page = look(f"file://{report([folder / 'all', folder / 'other'], tmp_path / 'two.html')}")
    assert page.locator("main h1").all_inner_texts() == ["all · Net", "other · Net"]


def test_a_dark_page_is_printed_as_it_is(chromium, report_file):
    """Paper is light: the browser changes the colours while it prints, and waits for nothing that is drawn anew."""
    dark = chromium("--blink-settings=preferredColorScheme=0")
    try:
        page = dark.new_context(color_scheme="null").new_page()
        page.goto(f"file://{report_file}#stream=k/spectrum")
        page.wait_for_selector("figure canvas")
        assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        page.evaluate("""{
            const kept = document.querySelector("figure canvas"), chart = document.querySelector(".plot").chart;
            const draw = chart.draw;
            window.inks = [];
            chart.draw = function () {
                window.inks.push(getComputedStyle(document.documentElement).getPropertyValue("--ink").trim());
                return draw.call(this);
            };
            window.stays = () => kept.isConnected;
        }""")
        page.pdf()
        page.wait_for_timeout(300)
        inks = page.evaluate("window.inks")
        assert (inks[0], inks[-1]) == ("#222", "#e4e4e2") and page.evaluate("window.stays()")
    finally:
        dark.close()


@pytest.mark.parametrize("height", [0, -1, 1.5, "100%", None, True])
def test_a_height_is_a_number_of_pixels(folder, height):
    with pytest.raises(ValueError, match="`height` must be a positive number of pixels, got"):
        open_run(folder / "all").show(height=height)


def test_a_selection_is_not_shown_as_the_whole(tmp_path):
    write(tmp_path / "run", [(step, everything(step)) for step in range(5)])
    tree = open_run(tmp_path / "run")
    for less in (tree.sel(step=slice(0, 2)), tree["k"].isel(step=[0])):
        with pytest.raises(ValueError, match="as open_run"):
            less.show()
    tree["k/scalar"].show()
