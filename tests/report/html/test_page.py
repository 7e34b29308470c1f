"""A page has the numbers of the summary, all of them, refers to nothing outside itself, and shows text as text."""

from __future__ import annotations

import base64
import gzip

import pytest

from kvsim.experiments.pages import page_of
from kvsim.report.html.page import page_html
from kvsim.report.html.tables import PAGE_ROWS, Table, own_columns, table_html, value_text
from kvsim.report.results import RunResult
from tests.report.html.conftest import HOSTILE, many_cells
from tests.report.html.reading import PageReader

MAX_BYTES = 5_000_000


def test_every_number_of_the_tables_is_that_of_the_summary(result: RunResult, page: bytes) -> None:
    tables = PageReader(page).tables
    shown, every = tables["rows-0"], tables["rows-1"]
    cells = result.summary["cells"]
    assert len(shown) == len(every) == len(cells)
    assert {"policy", "tpot_p50_s", "stall_frac", "mass_recall_frac", "host_bytes"} <= set(shown[0])
    for cell, row, whole in zip(cells, shown, every, strict=True):
        assert set(whole) == set(cell)
        for name, value in (row | whole).items():
            assert value.removeprefix("-") == value_text(cell[name]).removeprefix("-"), name


def test_a_changed_number_changes_the_page(result: RunResult, page: bytes) -> None:
    cells = [dict(cell) for cell in result.summary["cells"]]
    cells[3]["tpot_p50_s"] = 0.123456789
    changed = RunResult(summary=result.summary | {"cells": cells}, rows=result.rows, manifest=result.manifest)
    rows = PageReader(page_html(page_of(changed))).tables["rows-0"]
    assert rows[3]["tpot_p50_s"] == "0.123456789" != PageReader(page).tables["rows-0"][3]["tpot_p50_s"]


def test_the_figures_draw_the_summarys_numbers(result: RunResult, page: bytes) -> None:
    (tpot, *_) = PageReader(page).charts
    drawn = {
        (trace["meta"]["series"], x): y
        for trace in tpot["views"][0]["traces"]
        for x, y in zip(trace["x"], trace["y"], strict=True)
    }
    first = [cell for cell in result.summary["cells"] if cell["budget.context_frac"] == 0.1]
    assert len(drawn) == len(first) == 8
    for cell in first:
        at = (cell["policy"], cell["trace.extrapolate.context_tokens"])
        assert drawn[at] == pytest.approx(1e3 * cell["tpot_p50_s"], rel=1e-5)


def test_a_page_refers_to_nothing_outside_itself(page: bytes) -> None:
    read = PageReader(page)
    assert read.references and all(one.startswith(("#", "data:,")) for one in read.references)
    assert not {"link", "iframe", "img", "object", "embed"} & (read.tags - {"link"})
    own = read.scripts["page"]
    assert "http" not in own and "fetch(" not in own and "import(" not in own
    library = gzip.decompress(base64.b64decode(read.scripts["library"]))
    assert library.startswith(b"/**\n* plotly.js") and b"MIT license" in library[:200]


def test_a_page_is_small(page: bytes) -> None:
    assert len(page) < MAX_BYTES


def test_a_long_table_has_every_row_and_number(result: RunResult) -> None:
    large = many_cells(result, 150)
    cells = large.summary["cells"]
    text = page_html(page_of(large))
    assert len(cells) == 2400 and len(text) < MAX_BYTES
    page = PageReader(text)
    for anchor in ("rows-0", "rows-1"):
        rows = page.all_rows(anchor)
        assert len(rows) == len(cells) and rows[:PAGE_ROWS] == page.tables[anchor]
        for cell, row in zip(cells, rows, strict=True):
            assert row["tpot_p50_s"] == value_text(cell["tpot_p50_s"])
            assert row["budget_pages"] == value_text(cell["budget_pages"])
    assert "writes all" not in text.decode()


def test_a_page_of_very_many_cells_is_small_and_states_which_figure_it_leaves_out(result: RunResult) -> None:
    large = many_cells(result, 1200)
    page = page_of(large)
    text = page_html(page)
    assert len(text) < MAX_BYTES
    read = PageReader(text)
    assert len(read.all_rows("rows-0")) == len(large.summary["cells"]) == 19_200
    assert len(read.charts) == len(page.charts) - 1
    assert text.decode().count("Not drawn, because it has too many points") == 1


def test_rows_that_do_not_fit_are_left_out_and_the_page_says_so(result: RunResult) -> None:
    cells = many_cells(result, 100).summary["cells"]
    table = Table(title="Cells", rows=cells, columns=own_columns(cells))
    for max_packed, least in ((30_000, PAGE_ROWS + 1), (10, PAGE_ROWS)):
        text, used = table_html(table, "rows-0", max_packed)
        read = PageReader(text.encode())
        rows = read.all_rows("rows-0") if used else read.tables["rows-0"]
        assert least <= len(rows) < len(cells) == 1600 and used <= max_packed
        assert f"The first {len(rows):,} of 1,600 rows" in text
        assert [row["tpot_p50_s"] for row in rows] == [value_text(cell["tpot_p50_s"]) for cell in cells[: len(rows)]]


def test_names_that_look_like_markup_are_shown_as_text(hostile_page: bytes) -> None:
    read = PageReader(hostile_page)
    assert "b" not in read.tags
    assert read.tables["rows-0"][1]["policy"] == HOSTILE
    assert b"</script><b" not in hostile_page
    traces = [trace for chart in read.charts for view in chart["views"] for trace in view["traces"]]
    labels = [trace["name"] for trace in traces] + [str(y) for t in traces if t.get("orientation") for y in t["y"]]
    assert any("&lt;/script&gt;" in label for label in labels)
    assert not any("<" in label for label in labels)


def test_provenance_has_command_date_versions_and_digests(page: bytes) -> None:
    text = page.decode()
    for part in ("kvsim run long_context", "2026-11-28T09:39:28", "numpy 2.4", "feedc0de", "# the scenario file"):
        assert part in text


def test_what_figures_rest_on_is_stated(result: RunResult, page: bytes) -> None:
    assert "published figures" in page.decode()
    summary = result.summary | {"is_measured": True}
    measured = page_of(RunResult(summary=summary, rows=result.rows, manifest=result.manifest))
    assert measured.facts["Result"] == "measured" and not any("imulated, not" in one for one in measured.limitations)
