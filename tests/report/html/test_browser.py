"""The page in a headless Chromium: no error, no request, every figure, the legend, the cells, the table by keyboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvsim.experiments.pages import page_of
from kvsim.report.html.page import page_html
from kvsim.report.results import RunResult
from tests.report.html.conftest import HOSTILE, many_cells

websocket = pytest.importorskip("websocket", reason="websocket-client is not installed: it drives the browser")

from tests.report.html.browser import Browser  # noqa: E402

ENTER, TAB = ("Enter", 13, "\r"), ("Tab", 9, "")


@pytest.fixture
def opened(browser: Browser, page: bytes, tmp_path: Path) -> Browser:
    """The browser with the page open, and what it noted of earlier ones forgotten."""
    path = tmp_path / "report.html"
    path.write_bytes(page)
    browser.errors.clear()
    browser.requests.clear()
    browser.prefer("light")
    browser.open(path)
    return browser


def column(browser: Browser, name: str) -> list[str]:
    script = (
        "(() => { const table = document.getElementById('rows-0'); const heads = [...table.tHead.rows[0].cells]; "
        f"const place = heads.findIndex((head) => head.dataset.name === {json.dumps(name)}); "
        "return [...table.tBodies[0].rows].filter((row) => !row.hidden)"
        ".map((row) => row.cells[place].dataset.value ?? row.cells[place].textContent); })()"
    )
    return list(browser.evaluate(script))


def visible(browser: Browser, plot: int) -> list[str]:
    script = f"document.querySelector('[data-plot=\"{plot}\"]').data.filter((t) => t.visible).map((t) => t.meta.series)"
    return list(dict.fromkeys(browser.evaluate(script)))


def test_it_opens_without_errors_or_requests(opened: Browser) -> None:
    assert opened.errors == []
    assert [one for one in opened.requests if not one.startswith(("file:", "data:"))] == []


def test_every_figure_is_drawn(opened: Browser) -> None:
    drawn = opened.evaluate(
        "[...document.querySelectorAll('[data-plot]')].map((plot) => [...plot.querySelectorAll("
        "'.scatterlayer .trace path, .barlayer .point path')].filter((path) => path.getBoundingClientRect().width > 0)"
        ".length)"
    )
    assert len(drawn) == 5 and all(number > 0 for number in drawn)


def test_the_legend_hides_a_policy_in_all_figures_and_shows_it_again(opened: Browser) -> None:
    before = [visible(opened, plot) for plot in (0, 1)]
    assert all("lru" in names for names in before)
    button = 'document.querySelector(\'[data-legend="0"] button[data-series="lru"]\')'
    opened.evaluate(f"{button}.focus()")
    opened.press(*ENTER)
    assert [visible(opened, plot) for plot in (0, 1)] == [[n for n in names if n != "lru"] for names in before]
    assert opened.evaluate(f"{button}.getAttribute('aria-pressed')") == "false"
    assert opened.evaluate(f"document.activeElement === {button}")
    opened.press(*ENTER)
    assert [visible(opened, plot) for plot in (0, 1)] == before


def test_a_figure_switches_its_cells(opened: Browser) -> None:
    data = "JSON.stringify(document.querySelector('[data-plot=\"4\"]').data.map((trace) => trace.y))"
    before = opened.evaluate(data)
    opened.evaluate(
        "(() => { const select = document.querySelector('select[data-chart=\"4\"]'); select.value = 1; "
        "select.dispatchEvent(new Event('change')); })()"
    )
    assert opened.evaluate(data) != before


def test_pointing_at_a_figure_shows_its_values(opened: Browser) -> None:
    opened.evaluate("document.querySelector('[data-plot=\"0\"]').focus()")
    opened.press("ArrowRight", 39)
    hover = "document.querySelector('[data-plot=\"0\"] .hoverlayer').textContent"
    opened.wait_for(f"{hover} !== ''")
    text = opened.evaluate(hover)
    assert "lru" in text and "32" in text


def test_the_table_is_sorted_by_keyboard(opened: Browser, result: RunResult) -> None:
    values = [cell["tpot_p50_s"] for cell in result.summary["cells"]]
    head = "document.querySelector('#rows-0 th[data-name=tpot_p50_s]')"
    opened.evaluate(f"{head}.previousElementSibling.querySelector('button').focus()")
    opened.press(*TAB)  # from one head to the next: they are buttons
    assert opened.evaluate(f"document.activeElement.parentNode === {head}")
    for direction in ("ascending", "descending"):
        opened.press(*ENTER)
        assert opened.evaluate(f"{head}.getAttribute('aria-sort')") == direction
        found = [float(text) for text in column(opened, "tpot_p50_s")]
        assert found == sorted(values, reverse=direction == "descending")


def test_what_does_not_apply_is_last_whichever_way_it_is_sorted(opened: Browser) -> None:
    for _ in range(2):
        opened.evaluate("document.querySelector('#rows-0 th[data-name=budget_pages] button').click()")
        found = column(opened, "budget_pages")
        assert found[-4:] == [""] * 4 and "" not in found[:-4]


def test_the_table_is_filtered(opened: Browser) -> None:
    field = "document.querySelector('input[data-filters=rows-0]')"
    opened.evaluate(f"{field}.value = 'lru 65536'; {field}.dispatchEvent(new Event('input'))")
    assert opened.evaluate(f"{field}.closest('.tools').querySelector('output').textContent") == "2 of 16 rows"
    assert column(opened, "policy") == ["lru", "lru"]


def test_dark_and_print_have_their_own_colours(opened: Browser) -> None:
    ink = "getComputedStyle(document.querySelector('[data-plot=\"0\"] .xtick text')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    light = {name: opened.evaluate(script) for name, script in {"ink": ink, "paper": paper}.items()}
    opened.prefer("dark")
    opened.wait_for(f"{ink} !== '{light['ink']}' && {paper} !== '{light['paper']}'")
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate(ink) == "rgb(0, 0, 0)"
    opened.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert opened.errors == []


def test_names_that_look_like_markup_do_nothing(browser: Browser, hostile_page: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_bytes(hostile_page)
    browser.errors.clear()
    browser.open(path)
    assert browser.errors == []
    assert browser.evaluate("document.querySelectorAll('b, [onclick]').length") == 0
    assert browser.evaluate("document.querySelector('h1').textContent") == HOSTILE
    assert HOSTILE in browser.evaluate("[...document.querySelectorAll('.legend button')].map((b) => b.textContent)")
    assert HOSTILE in browser.evaluate("[...document.querySelectorAll('.ytick text')].map((t) => t.textContent)")


@pytest.fixture
def long(browser: Browser, result: RunResult, tmp_path: Path) -> Browser:
    """The browser with a page of 1,600 cells open."""
    browser.errors.clear()
    (tmp_path / "long.html").write_bytes(page_html(page_of(many_cells(result, 100))))
    browser.open(tmp_path / "long.html")
    return browser


def test_a_long_table_is_turned_by_keyboard_and_sorted_and_filtered_as_a_whole(
    long: Browser, result: RunResult
) -> None:
    values = [cell["tpot_p50_s"] for cell in many_cells(result, 100).summary["cells"]]
    tools = "document.querySelector('input[data-filters=rows-0]').closest('.tools')"
    says = f"{tools}.querySelector('output').textContent"
    assert [float(text) for text in column(long, "tpot_p50_s")] == values[:100]
    assert long.evaluate(says) == "1 to 100 of 1,600 rows"
    long.evaluate(f"{tools}.querySelectorAll('button')[1].focus()")
    for _ in range(16):  # one more than there are
        long.press(*ENTER)
    assert [float(text) for text in column(long, "tpot_p50_s")] == values[1500:]
    assert long.evaluate(f"{tools}.querySelectorAll('button')[1].getAttribute('aria-disabled')") == "true"
    assert long.evaluate(f"document.activeElement === {tools}.querySelectorAll('button')[1]")
    long.evaluate("document.querySelector('#rows-0 th[data-name=tpot_p50_s] button').click()")
    assert [float(text) for text in column(long, "tpot_p50_s")] == sorted(values)[1500:]
    long.evaluate(f"{tools}.querySelectorAll('button')[0].click()")
    assert [float(text) for text in column(long, "tpot_p50_s")] == sorted(values)[1400:1500]
    field = "document.querySelector('input[data-filters=rows-0]')"
    long.evaluate(f"{field}.value = 'lru 65536'; {field}.dispatchEvent(new Event('input'))")
    assert long.evaluate(says) == "101 to 200 of 200 of 1,600 rows" and set(column(long, "policy")) == {"lru"}
    assert long.errors == []
