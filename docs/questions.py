"""Write the table of docs/questions.md: public questions, what was reported, and what `kvsim plan` answers.

`python docs/questions.py` runs every command of the table; a test compares the page with what it writes.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kvsim.cli import run_command
from kvsim.units import format_bytes, format_seconds

PAGE = Path(__file__).resolve().parent / "questions.md"
BEGIN, END = "<!-- answers: made by docs/questions.py -->\n", "<!-- end of answers -->"

Answer: TypeAlias = dict[str, Any]
"""What `kvsim plan --json` prints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A row of the table."""

    link: str
    reported: str
    command: str
    """Without ``kvsim``."""
    shows: Callable[[Answer], str]
    """What of the answer stands in the table."""


def blocks(answer: Answer) -> str:
    """Return the tokens of KV that fit, in blocks of 16."""
    memory = answer["memory"]
    return (
        f"weights {format_bytes(memory['weights_bytes'])}, activations {format_bytes(memory['activation_bytes'])}, "
        f"{format_bytes(memory['max_kv_bytes'])} left for KV: {memory['max_kv_tokens'] // 16:,} blocks of 16, "
        f"{memory['max_kv_tokens']:,} tokens"
    )


def starts(answer: Answer) -> str:
    """Return whether everything fits, and what is too much."""
    memory = answer["memory"]
    if memory["fits"]:
        return "fits"
    return f"does not fit: {format_bytes(memory['total_bytes'])} of {format_bytes(memory['usable_bytes'])}"


def layer(answer: Answer) -> str:
    """Return the KV cache, and the time to read it from the disk of LMCache's issue by layer; 32 of them."""
    size_bytes = answer["memory"]["kv_bytes"] / 32
    return f"{format_bytes(size_bytes)} of KV a layer: {format_seconds(size_bytes / 4.8e9)} at 4.8 GB/s"


def largest(answer: Answer) -> str:
    """Return the largest context and batch that fit whole."""
    memory = answer["memory"]
    return f"{memory['max_kv_tokens']:,} tokens of KV fit; {memory['max_batch'] or 'no'} sequences of this context"


def held(answer: Answer) -> str:
    """Return the bytes of a token, and the tokens in the host cache of ninfer's issue."""
    token_bytes = answer["memory"]["kv_bytes"] / answer["context_tokens"]
    return f"{format_bytes(token_bytes)} a token: 44 GB hold {44e9 / token_bytes / 1e6:.1f} million"


def context(answer: Answer) -> str:
    """Return the largest context, and the options from the host or with fewer bits."""
    lines = [_times(option) for option in answer["options"] if option["fits"] and option["num_cards"] == 1]
    return "; ".join([f"{answer['memory']['max_context_tokens']:,} tokens fit whole", *lines[:3]])


def streamed(answer: Answer) -> str:
    """Return the time with everything on the card and with its KV streamed from the host."""
    options = answer["options"]
    from_host = next(option for option in options if "streamed" in option["name"])
    return f"{_times(options[0])}; {_times(from_host)}"


def sparse(answer: Answer) -> str:
    """Return the throughput of full attention, of as many sequences as fit, and of the middle selection of pages."""
    whole = answer["options"][0]
    paged = next(option for option in answer["options"] if option["recall_frac"] is not None and _is_middle(option))
    most = answer["memory"]["max_batch"]
    full = f"all on the card: {whole['tokens_per_s']:,.0f} tokens/s" if whole["fits"] else f"whole: {most} at most"
    return f"{full}; {paged['name']}: {paged['tokens_per_s']:,.0f} tokens/s, {100 * paged['recall_frac']:.0f}% recall"


def _is_middle(option: Answer) -> bool:
    return "top 2,176" in option["name"]


def _times(option: Answer) -> str:
    low_s, high_s = option["tpot_interval_s"]
    return f"{option['name']}: {format_seconds(low_s)} to {format_seconds(high_s)} a token"


_3090 = "plan --model llama-3.1-8b --gpu rtx-3090 --reserve 1.27GiB"
_PRO = "plan --model qwen3-30b-a3b --gpu rtx-pro-6000 --context 34k"
QUESTIONS = (
    Question(
        link="[vllm#10517](https://github.com/vllm-project/vllm/issues/10517)",
        reported="weights 14.99 GiB, activations 2.07, KV 2.89 GiB: 1,478 blocks, 23,648 tokens",
        command=f"{_3090} --context 20000 --step-tokens 20000",
        shows=blocks,
    ),
    Question(
        link="the same",
        reported="29k does not start",
        command=f"{_3090} --context 29000 --step-tokens 29000",
        shows=starts,
    ),
    Question(
        link="[LMCache#977](https://github.com/LMCache/LMCache/issues/977)",
        reported="16 ms a layer in the paper; a reader computed 3 ms",
        command="plan --model llama-2-7b --gpu h100 --context 4k",
        shows=layer,
    ),
    Question(
        link="[TensorRT-LLM#7281](https://github.com/NVIDIA/TensorRT-LLM/issues/7281)",
        reported="44k tokens fit, 128k are wanted: not possible",
        command="plan --model llama-3.1-8b --weights fp8 --gpu rtx-5060-ti-16gb --context 128k",
        shows=context,
    ),
    Question(
        link="[transformers#30704](https://github.com/huggingface/transformers/issues/30704)",
        reported="a 7B model on an H100, KV offloaded layer by layer: 12 tokens/s",
        command="plan --model llama-2-7b --gpu h100 --context 4k --eager",
        shows=streamed,
    ),
    *(
        Question(link=link, reported=reported, command=f"{_PRO} --batch {batch}", shows=sparse)
        for link, batch, reported in (
            ("[sglang PR 33075](https://github.com/sgl-project/sglang/pull/33075)", 1, "0.92x of full attention"),
            ("the same", 8, "1.19x; full attention runs 6 requests at most"),
            ("the same", 54, "3.0x"),
        )
    ),
    Question(
        link="[vllm#44294](https://github.com/vllm-project/vllm/issues/44294)",
        reported="50 concurrent requests with a shared prefix of 10k tokens, two cards: offloading costs 41%",
        command="plan --model qwen3-8b --gpu l40s --context 11k --batch 50",
        shows=largest,
    ),
    Question(
        link="[ninfer#3](https://github.com/MirkoCovizzi/ninfer-rtx5090-mobile/issues/3)",
        reported="27B hybrid model in NVFP4, 196k tokens; 44 GB of host memory hold 1.1 million",
        command="plan --model qwen3.5-27b --gpu rtx-5090 --context 196k --weights nvfp4 --kv fp8",
        shows=held,
    ),
)


def table() -> str:
    """Return the table as Markdown; every command of it is run."""
    rows = ["| question | reported | command | kvsim |", "| --- | --- | --- | --- |"]
    for question in QUESTIONS:
        answer = question.shows(run(question.command))
        rows.append(f"| {question.link} | {question.reported} | `kvsim {question.command}` | {answer} |")
    return "\n".join(rows) + "\n"


def run(command: str) -> Answer:
    """Return what a command answers as JSON."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        code = run_command([*command.split(), "--json"])
    assert code == 0, command
    answer: Answer = json.loads(printed.getvalue())
    return answer


def with_table(text: str) -> str:
    """Return the page with a new table."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def main() -> int:
    """Write the page."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
