"""Schemas, layouts and prompts: where tokens lie, what a prompt takes, and what is refused with line and tag."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import MarkupError
from kvsim.experiments.prompt_modules.schema import Layout, Prompt, assemble, lay_out, parse_prompts, parse_schema
from kvsim.experiments.prompt_modules.schema.markup import parse_markup

SCHEMA = """<schema name="trip">
  You plan trips.
  <module name="plan">
    Stay <parameter name="days" length="6"/> days.
    <module name="tips">Pack light.</module>
    <union>
      <module name="city">Museums and trams.</module>
      <module name="coast">Sun.</module>
    </union>
    Book early.
  </module>
  <module name="budget">Spend little.</module>
  <scaffold modules="plan budget"/>
</schema>"""


def layout_of(text: str = SCHEMA) -> Layout:
    return lay_out(parse_schema(parse_markup(text, "s.xml")), len)


def prompts_of(text: str, layout: Layout | None = None) -> tuple[Prompt, ...]:
    layout = layout or layout_of()
    return parse_prompts(parse_markup(text, "p.xml"), layout.schema)


def one(inside: str) -> Prompt:
    return prompts_of(f'<prompt schema="trip">{inside}</prompt>')[0]


def test_modules_lie_one_behind_the_other_and_a_unions_members_begin_together() -> None:
    layout = layout_of()
    units = {unit.path: unit for unit in layout.units}
    assert list(units) == ["(text 1)", "plan", "plan/tips", "plan/city", "plan/coast", "budget", "plan + budget"]
    text, plan, tips = units["(text 1)"], units["plan"], units["plan/tips"]
    assert [span.text for span in text.spans] == ["You plan trips.\n"]
    assert [(span.text, span.num_tokens) for span in plan.spans] == [
        ("Stay ", 5), (None, 6), (" days.\n", 7), ("Book early.\n", 12),
    ]  # fmt: skip
    assert tips.spans[0].start == plan.spans[2].stop
    assert units["plan/city"].spans[0].start == units["plan/coast"].spans[0].start == tips.spans[0].stop
    assert plan.spans[3].start == units["plan/city"].spans[0].stop  # the longest member's room
    assert units["budget"].spans[0].start == plan.spans[3].stop
    assert layout.num_positions == units["budget"].spans[0].stop
    assert [unit.number for unit in layout.units] == list(range(7))


def test_a_prompt_reads_its_modules_by_position_whatever_order_it_names_them_in() -> None:
    first = one('<budget/><plan days="three"><coast/><tips/></plan>Where to?')
    second = one('<plan days="three"><tips/><coast/></plan>\n<budget/>\n Where to? ')
    layout = layout_of()
    found = assemble(layout, first, len)
    assert found == assemble(layout, second, len)
    assert "".join(found.texts) == (
        "You plan trips.\nStay three days.\nPack light.\nSun.\nBook early.\nSpend little.\nWhere to?"
    )
    assert [layout.units[unit].path for unit in found.units] == [
        "(text 1)", "plan", "plan/tips", "plan/coast", "budget",
    ]  # fmt: skip
    assert found.num_tokens == len("".join(found.texts))
    argument, new = found.fresh
    assert (argument.position, argument.num_tokens) == (layout.units[1].spans[1].start, 5)
    assert new.position == layout.num_positions


def test_the_states_of_placeholders_are_left_out_and_an_argument_may_be_shorter_or_missing() -> None:
    layout = layout_of()
    given_one, without = (assemble(layout, one(text), len) for text in ('<plan days="ten"/>Go', "<plan/>Go"))
    plan = layout.units[1].spans
    assert [(part.start, part.stop, part.position) for part in given_one.parts if part.unit == 1] == [
        (0, 5, plan[0].start),
        (11, 18, plan[2].start),
        (18, 30, plan[3].start),
    ]
    assert given_one.parts == without.parts
    assert [fresh.text for fresh in without.fresh] == ["Go"]
    assert without.fresh[-1].position == plan[3].stop


def test_a_scaffold_takes_the_place_of_its_modules_where_all_are_selected() -> None:
    layout = layout_of()
    both, alone = one("<plan/><budget/>Go"), one("<plan/>Go")
    paths = [layout.units[unit].path for unit in assemble(layout, both, len, scaffolds=True).units]
    assert paths == ["(text 1)", "plan + budget"]
    assert assemble(layout, both, len, scaffolds=True).texts == assemble(layout, both, len).texts
    assert assemble(layout, alone, len, scaffolds=True) == assemble(layout, alone, len)
    assert [unit.num_tokens for unit in layout.scaffolds] == [30 + len("Spend little.\n")]


def test_what_stands_around_new_text_is_new_text_of_every_prompt() -> None:
    found = assemble(layout_of(), one("Go"), len, around=("<", ">\n"))
    assert found.fresh[-1].text == found.texts[-1] == "<Go>\n"
    assert found.fresh[-1].num_tokens == 5


def written_out(text: str) -> str:
    for short, tag in (("S", "schema name='x'"), ("A", "module name='a'")):
        text = text.replace(f"<{short}>", f"<{tag}>").replace(f"</{short}>", f"</{tag.split()[0]}>")
    return text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<scheme name='x'>a</scheme>", r"s\.xml:1: <scheme>: a schema begins with <schema"),
        ("<schema>a</S>", "<schema>: has no name"),
        ("<schema name='x'/>", "holds no module"),
        ("<S>\n<modul name='a'>a</modul></S>", r"s\.xml:2: <modul>: unknown tag .*did you mean 'module'"),
        ("<S><module nam='a'>a</A></S>", "unknown attribute 'nam'; did you mean 'name'"),
        ("<S><module name='a b'>a</A></S>", "'a b' is no name"),
        ("<S><module name='a'/></S>", "<module>: is empty"),
        ("<S><parameter name='a' length='2'/></S>", "unknown tag in <schema>"),
        ("<S><A>b</A>\n<A>c</A></S>", r":2: .*already"),
        ("<S><A><parameter name='p'/></A></S>", "<parameter>: has no length"),
        ("<S><A><parameter name='p' length='0'/></A></S>", "from 1 to 65536"),
        ("<S><A><parameter name='p' length='²'/></A></S>", "from 1 to 65536"),
        (f"<S><A><parameter name='p' length='{'9' * 5000}'/></A></S>", "from 1 to"),
        ("<S><A><parameter name='p' length='2'>x</parameter></A></S>", "holds text"),
        (
            "<S><A><parameter name='p' length='2'/>\n<parameter name='p' length='2'/></A></S>",
            r":2: <parameter>: 'p' is a parameter already, of line 1",
        ),
        ("<S><union/></S>", "<union>: holds no module"),
        ("<S><union>text<A>a</A></union></S>", "a union holds modules only"),
        ("<S><union><union/></union></S>", "stands in a union"),
        ("<S>a<scaffold modules='m'/></S>", "two or more"),
        ("<S><module name='m'>a</A><scaffold modules='m n'/></S>", "no module 'n' with text"),
        (
            "<S><union><module name='m'>a</A><module name='n'>a</A></union><scaffold modules='m n'/></S>",
            "'m' and 'n' are of one union",
        ),
    ],
)  # fmt: skip
def test_a_schema_at_fault_is_told_with_line_and_tag(text: str, told: str) -> None:
    with pytest.raises(MarkupError, match=told) as caught:
        layout_of(written_out(text))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("s.xml:")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<prompt>Go</prompt>", "<prompt>: has no schema"),
        ("<prompt schema='tripp'>Go</prompt>", r"is for schema 'tripp', the schema in s\.xml is 'trip'"),
        ("<prompt schema='trip'><plan/></prompt>", "has no text behind its modules"),
        ("<prompt schema='trip'>Go\n<plan/>now</prompt>", r"p\.xml:2: <plan>: stands behind text"),
        ("<prompt schema='trip'>\n<plam/>Go</prompt>", r"p\.xml:2: <plam>: 'trip' has no such .*mean 'plan'"),
        ("<prompt schema='trip'><plan day='x'/>Go</prompt>", "unknown attribute 'day'; did you mean 'days'"),
        ("<prompt schema='trip'><budget x='x'/>Go</prompt>", "unknown attribute 'x'; it takes none"),
        ("<prompt schema='trip'><tips/>Go</prompt>", "'trip' has no such module"),
        ("<prompt schema='trip'><plan>\n<tipps/></plan>Go</prompt>", r"p\.xml:2: <tipps>: 'plan' has no such module"),
        ("<prompt schema='trip'><budget><tips/></budget>Go</prompt>", "'budget' has no such module; it has none"),
        ("<prompt schema='trip'><plan>words</plan>Go</prompt>", "<plan>: holds text"),
        ("<prompt schema='trip'><plan/>\n<plan/>Go</prompt>", r"p\.xml:2: <plan>: selected already in line 1"),
        ("<prompt schema='trip'><plan><city/>\n<coast/></plan>Go</prompt>", r":2: <coast>: is of one union with"),
        ("<prompts schema='trip'/>", "holds no prompt"),
        ("<prompts schema='trip'><prompt>Go</prompt></prompts>", "has no name"),
        ("<prompts schema='trip'><promt name='a'>Go</promt></prompts>", "did you mean 'prompt'"),
        ("<prompts schema='trip'><prompt name='a'>Go</prompt><prompt name='a'>Go</prompt></prompts>", "prompt already"),
        ("<schema name='trip'/>", "prompts begin with"),
    ],
)  # fmt: skip
def test_a_prompt_at_fault_is_told_with_line_and_tag(text: str, told: str) -> None:
    with pytest.raises(MarkupError, match=told) as caught:
        prompts_of(text)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("p.xml:")


def test_an_argument_longer_than_its_parameter_is_told_with_both_lengths() -> None:
    with pytest.raises(
        MarkupError, match=r"p\.xml:1: <plan>: days='fifteen' has 7 tokens, the parameter's length is 6"
    ):
        assemble(layout_of(), one('<plan days="fifteen"/>Go'), len)


names = st.lists(st.sampled_from("abcdef"), unique=True, min_size=1, max_size=4)


@st.composite
def schemas(draw: st.DrawFn) -> str:
    def module(name: str, depth: int) -> str:
        inside = draw(st.sampled_from(["text", "a longer text", 'with <parameter name="p" length="3"/> in it']))
        if depth < 2 and draw(st.booleans()):
            members = "".join(module(inner, depth + 1) for inner in draw(names))
            inside += f"<union>{members}</union>" if draw(st.booleans()) else members
        return f'<module name="{name}">{inside}</module>'

    return f'<schema name="s">{"".join(module(name, 0) for name in draw(names))}</schema>'


@given(schemas(), st.randoms(use_true_random=False))
def test_no_two_tokens_of_a_prompt_share_a_position_and_every_one_is_read_once(text: str, random) -> None:
    layout = layout_of(text)

    def chosen(modules, parts) -> str:
        one_of = {member.name: number for number, part in enumerate(parts) for member in getattr(part, "members", ())}
        taken = [module for module in modules if random.random() < 0.7]
        random.shuffle(taken)
        kept = {one_of.get(module.name, -place - 1): module for place, module in enumerate(taken)}
        inside = {module.name: chosen(module.modules, module.parts) for module in kept.values()}
        return "".join(f"<{name}>{words}</{name}>" for name, words in inside.items())

    prompt = prompts_of(
        f'<prompt schema="s">{chosen(layout.schema.modules, layout.schema.parts)}New.</prompt>', layout
    )[0]
    found = assemble(layout, prompt, len)
    positions = list(
        itertools.chain(
            *(range(part.position, part.position + part.stop - part.start) for part in found.parts),
            *(range(fresh.position, fresh.position + fresh.num_tokens) for fresh in found.fresh),
        )
    )
    assert len(set(positions)) == len(positions) == found.num_tokens == len("".join(found.texts))
    assert found.end == max(positions) + 1
    assert all(0 <= part.start < part.stop <= layout.units[part.unit].num_tokens for part in found.parts)


def test_the_markup_of_the_documentation_is_as_it_says() -> None:
    page = (Path(__file__).parents[3] / "docs" / "prompt-modules.md").read_text(encoding="utf-8")
    schema, prompts = re.findall(r"```xml\n(.*?)```", page, re.DOTALL)
    layout = lay_out(parse_schema(parse_markup(schema, "s.xml")), lambda text: len(text.split()))
    (prompt,) = prompts_of(prompts, layout)
    found = assemble(layout, prompt, lambda text: len(text.split()))
    assert "".join(found.texts) == (
        "You plan trips.\nThey stay three days.\nSun and sand.\nThey would rather spend little.\n"
        "Where should they go first?"
    )
    assert [layout.units[unit].path for unit in found.units] == ["(text 1)", "plan", "plan/coast", "budget"]
