"""The end of a message about an unknown name, short even where many names are known."""

from __future__ import annotations

from collections.abc import Collection

from kvsim.scenario.toml import nearest


def suggestion(name: str, known: Collection[str], what: str, *, examples: tuple[str, ...]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, else how many there are and some of them.

    Examples
    --------
    >>> suggestion("lama", ["llama", "qwen3"], "families are read", examples=("llama",))
    "; did you mean 'llama'?"
    >>> suggestion("bert", ["llama", "qwen3"], "families are read", examples=("llama",))
    '; 2 families are read, such as llama'
    """
    hint = nearest(name, known)
    if "did you mean" in hint:
        return hint
    return f"; {len(known)} {what}, such as {', '.join(examples)}"
