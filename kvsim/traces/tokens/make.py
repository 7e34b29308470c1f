"""Makes the token stream that ships: Python's help topics through a model's tokenizer, a document a topic.

    python -m kvsim.traces.tokens.make .cache/models/smollm2-135m-instruct captures/python-docs.tokens.jsonl.gz

Other versions of Python word their topics otherwise; those of 3.11.7 ship.
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
from pathlib import Path

from kvsim.errors import KvsimError, TraceError
from kvsim.traces.tokens.stream import StreamHeader, write_token_stream
from kvsim.traces.tokens.text import tokens_of


def make_token_stream(tokenizer: Path, path: Path) -> None:
    """Write the help topics of this Python, in the order of their names, as tokens.

    Raises
    ------
    TraceError
        If there is no such tokenizer.
    """
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    documents = tokens_of([topics[name] for name in sorted(topics)], tokenizer)
    header = StreamHeader(
        vocab_size=_vocab_size(tokenizer),
        tokenizer=tokenizer.name,
        source=f"pydoc_data.topics of Python {platform.python_version()}",
        licence="PSF-2.0",
        recipe=f"python -m kvsim.traces.tokens.make {tokenizer} {path}",
    )
    write_token_stream(path, header, documents)


def _vocab_size(tokenizer: Path) -> int:
    """Return the rows of the embedding table, of which a tokenizer may leave some unused."""
    file = tokenizer / "config.json"
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise TraceError(file, f"does not state vocab_size: {problem}") from None


def main(arguments: list[str]) -> int:
    """Make a stream from the command line; return the exit code."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m kvsim.traces.tokens.make TOKENIZER_FOLDER FILE\n")
        return 2
    try:
        make_token_stream(Path(arguments[0]), Path(arguments[1]))
    except KvsimError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
