"""The example of docs/prompt-cache.md runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "prompt-cache.md"


def test_the_example_runs_and_reuses_the_beginning_that_its_prompts_share(capsys, monkeypatch, tmp_path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    with torch.random.fork_rng():
        exec(compile(block, str(PAGE), "exec"), names)
    model, questions = names["model"], names["questions"]
    for answer, question in zip(names["answers"], questions, strict=True):
        plain = model.generate(question, max_new_tokens=10, do_sample=False)
        assert torch.equal(answer.sequences, plain)
    assert [answer.reused.tokens for answer in names["answers"]] == [0, 200, 200]
    assert names["report"].hits == 2
    assert "2 of 3 prompts hit, 61% of their tokens reused" in capsys.readouterr().out
