"""Texts are in plain technical English: words with a plainer replacement do not occur in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BETTER = {
    "foretell": "predict",
    "foretells": "predicts",
    "foretold": "predicted",
    "foretelling": "predicting, prediction",
    "yardstick": "baseline",
    "tell": "report, show, print, state",
    "tells": "reports, shows, prints, states",
    "told": "reported, shown, printed, stated",
    "said": "stated, printed",
    "fault": "error",
    "faults": "errors",
    "books": "accounting, page table, cache state",
    "mass kept": "attention recall",
    "whole step": "fast path, complete step",
    "whole steps": "fast path, complete steps",
    "at hand": "available",
    "knob": "parameter",
    "knobs": "parameters",
    "contest": "comparison, benchmark",
    "mend": "fix, correct",
    "mended": "fixed, corrected",
    "dearest": "most expensive",
}
"""A word or phrase that is not to be used, and what to write instead."""

TEXTS = (
    "*.md",
    "docs/**/*.md",
    "docs/**/*.py",
    "results/README.md",
    "scenarios/*.toml",
    "kvsim/**/*.py",
    "kvsim/**/*.toml",
)
"""Globs of what is read by people."""

EXEMPT = ("kvsim/profile/columns.py",)
"""Patterns of texts that must use such words: this one has the name of a table in profiles of version 1."""

PLACEHOLDERS = {
    *("given", "found", "kept", "wanted", "told", "said", "tell", "tells", "mine"),
    *("fault", "faults", "books", "foretold", "yardstick", "knob", "mend"),
}
"""Words that say nothing of the thing that they name: a name is what the thing is."""

PUBLIC_NAMES = {
    "wanted": "method of prefetchers, which plug-ins have",
    "kept": "attribute of what the library's prompt cache returns",
    "kept_prompts": "attribute of the report of the library's prompt cache",
    "kept_bytes": "column of results",
    "found_by": "key of the records of kvsim max-context",
    "PromptBooks": "name before 0.2, for one release",
    "RowBooks": "name before 0.2, for one release",
    "PackageNotFoundError": "of Python",
    "FileNotFoundError": "of Python",
}
"""Names that have such a word and must keep it, and why."""

_PATTERN = re.compile(
    r"\b(" + "|".join(word.replace(" ", r"\s+") for word in sorted(BETTER, key=len, reverse=True)) + r")\b",
    re.IGNORECASE,
)
_BLOCK = re.compile(r"^ *```(?P<tag>\w*)\n(?P<body>.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`]+`")


def texts() -> list[str]:
    return sorted({path.relative_to(ROOT).as_posix() for glob in TEXTS for path in ROOT.glob(glob)})


def is_exempt(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in EXEMPT)


def prose_of(markdown: str) -> str:
    """Return the text without code, line by line; a block tagged ``text`` quotes printed output, which is prose."""

    def printed(block: re.Match[str]) -> str:
        return "\n" + (block["body"] if block["tag"] == "text" else "\n" * block["body"].count("\n"))

    return _INLINE_CODE.sub(lambda code: "\n" * code[0].count("\n"), _BLOCK.sub(printed, markdown))


def findings(name: str, text: str) -> list[str]:
    """Return a line for each word that is not to be used."""
    if name.endswith(".md"):
        text = prose_of(text)
    lines = []
    for match in _PATTERN.finditer(text):
        word = " ".join(match[0].lower().split())
        lines.append(f"{name}:{text[: match.start()].count(chr(10)) + 1}: {match[0]!r}: write {BETTER[word]}")
    return lines


@pytest.mark.parametrize("name", [name for name in texts() if not is_exempt(name)])
def test_no_word_is_used_that_has_a_plainer_replacement(name: str) -> None:
    assert findings(name, (ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("pattern", EXEMPT)
def test_an_exemption_that_is_no_longer_needed_is_removed(pattern: str) -> None:
    names = [name for name in texts() if fnmatch(name, pattern)]
    assert any(findings(name, (ROOT / name).read_text(encoding="utf-8")) for name in names), f"remove {pattern!r}"


def names_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield every identifier with its line."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield getattr(node, "lineno", 0), name


def placeholders_in(source: str) -> dict[str, int]:
    """Return the identifiers that have a placeholder among their words, each with one line where it stands."""
    return {
        name: line
        for line, name in names_of(ast.parse(source))
        if PLACEHOLDERS & {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    }


def test_a_name_says_what_the_thing_is() -> None:
    found = {path: placeholders_in(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("kvsim/**/*.py"))}
    lines = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, names in found.items()
        for name, line in names.items()
        if name not in PUBLIC_NAMES
    ]
    assert lines == []
    assert set(PUBLIC_NAMES) <= {name for names in found.values() for name in names}, "remove what is no longer there"


def test_placeholders_are_noticed_in_every_kind_of_name() -> None:
    source = "def told(self, wanted_s):\n    import a as kept_b\n    self.num_found = KeptCell(given=FAULTS)\n"
    assert set(placeholders_in(source)) == {"told", "wanted_s", "kept_b", "num_found", "KeptCell", "given", "FAULTS"}
    assert placeholders_in("default = foundation.keeps(minefield)") == {}


@pytest.mark.parametrize("word", BETTER)
def test_each_word_is_found_in_prose_and_not_in_code(word: str) -> None:
    prose = f"First line.\nSome {word.title()} here.\n"
    assert findings("page.md", prose) == [f"page.md:2: {word.title()!r}: write {BETTER[word]}"]
    assert findings("page.md", f"Some\n{word.replace(' ', chr(10))}\n") != []
    assert findings("page.md", f"`{word}`, un{word}s\n```python\n{word}\n```\n") == []
    assert findings("page.md", f"```text\n{word}\n```\n") != []
    assert findings("code.py", f"x = `{word}`") != []


def test_the_pages_are_among_the_texts() -> None:
    names = texts()
    for name in ("README.md", "docs/design.md", "docs/decisions/0001-residency-is-logical.md", "docs/readme.py"):
        assert name in names
    assert "kvsim/scenario/template.toml" in names
    assert not is_exempt("kvsim/scenario/template.toml")
