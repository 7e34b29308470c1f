"""docs/plan.md, docs/questions.md and a table of docs/estimates.md show what the commands print today."""

from __future__ import annotations

import doctest
import re

from tests.scripts import ROOT, load_script

DOCS = ROOT / "docs"


def test_the_examples_are_what_the_command_prints() -> None:
    plan = load_script("docs/plan.py")
    example = plan.printed()
    for page, until in plan.PAGES.items():
        text = page.read_text(encoding="utf-8")
        assert plan.COMMAND in text
        assert plan.with_example(text, example, until) == text, "run: python docs/plan.py"


def test_the_answers_are_those_of_their_commands() -> None:
    text = (DOCS / "questions.md").read_text(encoding="utf-8")
    questions = load_script("docs/questions.py")
    assert questions.with_table(text) == text, "run: python docs/questions.py"
    remarks = re.findall(r"^\d+\. \*\*", text, flags=re.MULTILINE)
    assert len(remarks) == 10


def test_the_table_of_the_processor_is_that_of_its_script() -> None:
    text = (DOCS / "estimates.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- CPU: .*-->\n(.*?)<!-- end of CPU -->", text, flags=re.DOTALL)
    numbers = re.search(r"cpu_estimate.py --measured (\S+) (\S+)", text)
    assert shown is not None and numbers is not None
    bench = load_script("bench/cpu_estimate.py")
    bandwidth, rate = (float(number) * 1e9 for number in numbers.groups())
    assert shown[1] == bench.table(bench.load_profile(bench.PROFILE), bandwidth, rate)


def test_the_readme_has_the_errors_of_the_table() -> None:
    text = (DOCS / "estimates.md").read_text(encoding="utf-8")
    row = re.search(r"^\| all of NVIDIA \|(.*)\|$", text, flags=re.MULTILINE)
    assert row is not None
    _, _, middle, worst, from_memory, *_ = (cell.strip(" +-") for cell in row[1].split("|"))
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    stated = re.search(r"off by (\S+) in the median and (\S+) at worst,\s+(\S+)\s+where keys", readme)
    assert stated is not None and stated.groups() == (middle, worst, from_memory)


def test_the_code_of_the_questions_gives_what_it_shows() -> None:
    text = (DOCS / "questions.md").read_text(encoding="utf-8")
    examples = doctest.DocTestParser().get_doctest(text, {}, "questions.md", "questions.md", 0)
    assert len(examples.examples) == 3
    assert doctest.DocTestRunner().run(examples).failed == 0
