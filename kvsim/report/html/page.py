"""One page as one HTML file: its text, tables, figures and the library that draws them, and nothing from elsewhere."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from kvsim.report.html.charts import Chart
from kvsim.report.html.library import library_base64, library_name
from kvsim.report.html.tables import Table, table_html

_ASSETS = files("kvsim.report.html") / "assets"
_DATA_CHARACTERS = 2_700_000
"""Of figures and long tables, so that a page stays below 5 MB: the figure library takes 2."""
_CHART_CHARACTERS = 1_600_000
"""Of figures alone: a timeline of 12,000 spans takes a million."""
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where something comes from: names with values, and texts to open."""

    title: str
    facts: Mapping[str, str]
    texts: Mapping[str, str]
    """Long ones, as the scenario file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page shows, from top to bottom."""

    title: str
    kind: str
    """What it is a report of, above the title."""
    question: str = ""
    facts: Mapping[str, str]
    """In a strip below the title."""
    verdict: Sequence[str]
    tables: Sequence[Table]
    """The first is the page's main one."""
    charts: Sequence[Chart]
    limitations: Sequence[str]
    provenance: Sequence[Provenance]


def page_html(page: Page) -> bytes:
    """Return the page as UTF-8."""
    charts = _drawable(page.charts)
    data = script_json([chart.data() for chart in charts])
    tables = _tables(page.tables, _DATA_CHARACTERS - len(data))
    undrawn = [f"Not drawn, because it has too many points: {one.title}." for one in page.charts if one not in charts]
    sections = [
        _section("verdict", "Verdict", "".join(f"<p>{_paragraph(text)}</p>" for text in page.verdict)),
        *(
            _section(f"table-{number}", table.title, text)
            for number, (table, text) in enumerate(zip(page.tables, tables, strict=True))
            if not table.is_folded
        ),
        _section("figures", "Figures", "\n".join(_figure(n, chart) for n, chart in enumerate(charts))),
        _folded(page.tables, tables),
        _section("limitations", "Limitations", _list([*page.limitations, *undrawn])),
        _section("provenance", "Provenance", "\n".join(map(_provenance, page.provenance))),
    ]
    shown = [section for section in sections if section]
    text = Template((_ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(page.title),
        kind=html.escape(page.kind),
        question=html.escape(page.question),
        facts=_facts(page.facts),
        links="".join(_links(shown)),
        sections="\n".join(shown),
        library_name=html.escape(library_name()),
        css=(_ASSETS / "page.css").read_text(encoding="utf-8"),
        data=data,
        library=library_base64(),
        script=(_ASSETS / "page.js").read_text(encoding="utf-8"),
    )
    return text.encode()


def script_json(value: object) -> str:
    r"""Return JSON that can stand in a script element: no text in it can end the element.

    Examples
    --------
    >>> script_json("</script>")
    '"\\u003c/script>"'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _section(anchor: str, title: str, inner: str) -> str:
    if not inner:
        return ""
    heading = f"<h2 id='{anchor}-title'>{html.escape(title)}</h2>"
    return f"<section id='{anchor}' aria-labelledby='{anchor}-title'>\n{heading}\n{inner}\n</section>"


def _links(sections: Sequence[str]) -> list[str]:
    matches = [re.search(r"<section id='([^']+)'.*?<h2[^>]*>(.*?)</h2>", section, re.DOTALL) for section in sections]
    return [f"<a href='#{match[1]}'>{match[2]}</a>" for match in matches if match]


def _drawable(charts: Sequence[Chart]) -> list[Chart]:
    """Return the charts whose data fit into the page, in their order."""
    left = _CHART_CHARACTERS
    shown = []
    for chart in charts:
        size = len(script_json(chart.data()))
        if size <= left:
            shown.append(chart)
            left -= size
    return shown


def _tables(tables: Sequence[Table], max_packed: int) -> list[str]:
    """Return the HTML of each table, empty where it has no rows; those in front have their rows first."""
    left = max_packed
    texts = []
    for number, table in enumerate(tables):
        text, used = table_html(table, f"rows-{number}", left) if table.rows else ("", 0)
        texts.append(text)
        left -= used
    return texts


def _folded(tables: Sequence[Table], texts: Sequence[str]) -> str:
    parts = [
        f"<details><summary>{html.escape(table.title)}</summary>{text}</details>"
        for table, text in zip(tables, texts, strict=True)
        if table.is_folded and text
    ]
    return _section("more", "More tables", "\n".join(parts))


def _figure(number: int, chart: Chart) -> str:
    if not chart.views:
        return ""
    options = "".join(f"<option value='{n}'>{html.escape(view.name)}</option>" for n, view in enumerate(chart.views))
    select = f"<label>{html.escape(chart.choice)} <select data-chart='{number}'>{options}</select></label>"
    note = f"<p class='note'>{html.escape(chart.note)}</p>" if chart.note else ""
    return (
        f"<figure id='chart-{number}' aria-labelledby='chart-{number}-title'>"
        f"<figcaption id='chart-{number}-title'><h3>{html.escape(chart.title)}</h3></figcaption>"
        f"<div class='tools'>{select if len(chart.views) > 1 else ''}</div>"
        f"<div class='legend' role='group' aria-label='Series shown' data-legend='{number}'></div>"
        f"<div class='plot' data-plot='{number}' tabindex='0' role='img' aria-label='{html.escape(chart.title)}' "
        f"style='height:{chart.height_pixels}px'></div>{note}</figure>"
    )


def _provenance(one: Provenance) -> str:
    title = f"<h3>{html.escape(one.title)}</h3>" if one.title else ""
    texts = "".join(
        f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"
        for name, text in one.texts.items()
        if text
    )
    return f"{title}<dl class='facts wide'>{_facts(one.facts)}</dl>{texts}"


def _facts(facts: Mapping[str, str]) -> str:
    return "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items() if v)


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_paragraph(text)}</li>' for text in lines)}</ul>" if lines else ""


def _paragraph(text: str) -> str:
    """Return a paragraph with what stands in backticks as code."""
    return _CODE.sub(r"<code>\1</code>", html.escape(text))
