"""Write the measured tables of docs/predictors.md from the cross-check that is committed.

`python docs/predictors.py` writes them into the page; a test compares the page with what it writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any, TypeAlias

PAGE = Path(__file__).resolve().parent / "predictors.md"
RESULT = PAGE.parents[1] / "results" / "crosscheck_predictors"
BEGIN, END = "<!-- measured: made by docs/predictors.py -->\n", "<!-- end of measured -->"
TEXTS = {"python-docs": "docs", "python-code": "code", "agent.txt": "agent"}

Cell: TypeAlias = dict[str, Any]


def cells() -> list[Cell]:
    """Return the cells of the comparison with what only the measurement knows of each."""
    compared = json.loads((RESULT / "simulated" / "compare.json").read_text())["cells"]
    measured = json.loads((RESULT / "measured" / "summary.json").read_text())["cells"]
    known = ("moved_bytes", "prefetch_precision_frac", "hit_frac")
    return [
        one | {name: own[name] for name in known} | {"text": TEXTS[Path(own["measure.text"]).name]}
        for one, own in zip(compared, measured, strict=True)
    ]


def written() -> str:
    """Return the tables, one a budget."""
    parts = []
    shown = cells()
    for budget in sorted({one["budget.pages_per_layer"] for one in shown}):
        parts += [f"{budget} pages a layer, ms a token: measured (simulated)", "", *_table(shown, budget), ""]
    return "\n".join(parts)


def _table(shown: list[Cell], budget: int) -> list[str]:
    by_policy: dict[str, dict[str, Cell]] = {}
    for one in shown:
        if one["budget.pages_per_layer"] == budget:
            by_policy.setdefault(one["policy"], {})[one["text"]] = one
    texts = list(dict.fromkeys(one["text"] for one in shown))
    lines = [
        f"| policy | {' | '.join(texts)} | hits | stall | bytes, of `lru` | of prefetches used |",
        f"| --- | {' | '.join('---:' for _ in texts)} | ---: | ---: | ---: | ---: |",
    ]
    for policy, own in by_policy.items():
        times = [
            f"{own[text]['tpot_measured_s'] * 1e3:.1f} ({own[text]['tpot_simulated_s'] * 1e3:.1f})" for text in texts
        ]
        hits = mean(one["hit_frac"] for one in own.values())
        stall = mean(one["stall_measured_frac"] for one in own.values())
        moved = mean(own[text]["moved_bytes"] / by_policy["lru"][text]["moved_bytes"] for text in texts)
        fetched = [one["prefetch_precision_frac"] for one in own.values() if one["prefetch_precision_frac"] is not None]
        used = f"{mean(fetched):.0%}" if fetched and policy != "lru" else "-"
        lines.append(f"| `{policy}` | {' | '.join(times)} | {hits:.1%} | {stall:.1%} | {moved:.2f} | {used} |")
    return lines


def main() -> int:
    """Put the tables into the page."""
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}{written()}{END}{tail}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
