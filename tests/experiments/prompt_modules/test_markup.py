"""Prompt markup: what is read, and that nothing hostile is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import MarkupError
from kvsim.experiments.prompt_modules.schema.markup import Words, parse_markup, read_markup

BOMB = '<!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n<schema name="x">&b;</schema>'
OUTSIDE = '<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]><schema name="x">&a;</schema>'


def test_tags_know_their_lines_and_text_is_kept_as_it_stands() -> None:
    root = parse_markup(
        '<schema name="x">\n one &lt; two\n <module name="m"><![CDATA[a <b> c]]></module>\n</schema>', "s.xml"
    )
    first, module, last = root.parts
    assert isinstance(first, Words) and first.text == "\n one < two\n " and first.line == 1
    assert (module.name, module.line, module.parts[0].text) == ("module", 3, "a <b> c")
    assert last.text == "\n"


@pytest.mark.parametrize(
    "text", [BOMB, OUTSIDE, '<!DOCTYPE s SYSTEM "http://x/y.dtd"><schema/>', "<!DOCTYPE s><schema/>"]
)
def test_a_document_type_is_refused_before_anything_expands(text: str) -> None:
    with pytest.raises(MarkupError, match=r"s\.xml:1: a document type .* is not allowed"):
        parse_markup(text, "s.xml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<schema>\n<module>\n</schema>", r"s\.xml:3: mismatched tag, inside <module> of line 2"),
        ("<schema>\n&nosuch;</schema>", r"s\.xml:2: undefined entity, inside <schema> of line 1"),
        ("<a b='1' b='2'/>", "duplicate attribute"),
        ("", "no element found"),
        (b"<a>\xff</a>", "not UTF-8"),
        (b"<a>\xed\xa0\x80</a>", "not UTF-8"),
        ("<a>\ud800</a>", "not UTF-8"),
        ("<a>" * 80 + "</a>" * 80, "nested deeper than 64 tags"),
        ("<a/>\n<?php echo ?>", r"s\.xml:2: a processing instruction"),
    ],
)
def test_what_is_not_well_formed_is_told_with_its_line(text: str | bytes, told: str) -> None:
    with pytest.raises(MarkupError, match=told) as caught:
        parse_markup(text, "s.xml")
    assert "\n" not in str(caught.value)


@given(st.one_of(st.binary(max_size=200), st.text("<>/&;!?[]ab \n\"'=-", max_size=200)))
def test_any_bytes_are_read_or_refused_with_a_line(content: bytes | str) -> None:
    try:
        parse_markup(content, "s.xml")
    except MarkupError as problem:
        assert str(problem).startswith("s.xml:")


def test_a_text_of_many_lines_is_read_in_linear_time() -> None:
    root = parse_markup("<a>" + "x\n" * 200_000 + "</a>", "s.xml")
    assert len(root.parts) == 1 and len(root.parts[0].text) == 400_000


def test_a_missing_or_a_huge_file_is_refused(tmp_path) -> None:
    with pytest.raises(MarkupError, match="cannot be read"):
        read_markup(tmp_path / "none.xml")
    with (tmp_path / "huge.xml").open("wb") as file:
        file.truncate(17 * 2**20)
    with pytest.raises(MarkupError, match="larger than 16 MiB"):
        read_markup(tmp_path / "huge.xml")
