"""Ids of a prompt's blocks as several formats write them: a list ``hash_ids``, as many as the prompt has blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from kvsim.traces.rows import Row


def num_blocks(input_tokens: int, block_tokens: int, *, counts_partial: bool) -> int:
    """Return the blocks of a prompt; a last one that is not full counts where `counts_partial`."""
    return -(-input_tokens // block_tokens) if counts_partial else input_tokens // block_tokens


def fits(*, counts_partial: bool) -> Callable[[Sequence[Row], int], bool]:
    """Return a function that says whether all rows have as many ids as their lengths have blocks of a size."""

    def all_fit(rows: Sequence[Row], block_tokens: int) -> bool:
        return all(
            len(block_ids_in(row)) == num_blocks(_length_of(row), block_tokens, counts_partial=counts_partial)
            for row in rows
        )

    return all_fit


def block_ids_of(row: Row, block_tokens: int, *, counts_partial: bool, at_least: int) -> tuple[int, tuple[int, ...]]:
    """Return the length of a row's prompt in tokens, and the ids of its blocks.

    Raises
    ------
    TraceError
        If either is damaged, or there are more or fewer ids than the length has blocks.
    """
    input_tokens, ids = _length_of(row, at_least), block_ids_in(row)
    expected = num_blocks(input_tokens, block_tokens, counts_partial=counts_partial)
    if len(ids) != expected:
        full = "" if counts_partial else "full "
        raise row.error(
            f"input_length {input_tokens} is {expected} {full}blocks of {block_tokens} tokens, hash_ids has {len(ids)}"
        )
    return input_tokens, ids


def block_ids_in(row: Row) -> tuple[int, ...]:
    """Return the ids of a row; texts become numbers by their hash.

    Raises
    ------
    TraceError
        If they are no list of whole numbers that 63 bits hold, nor one of texts.
    """
    ids = row.values.get("hash_ids")
    if isinstance(ids, list) and ids and type(ids[0]) is str and set(map(type, ids)) == {str}:
        return tuple(map(_number_of, ids))
    return tuple(row.whole_numbers("hash_ids", below=2**63))


def _length_of(row: Row, at_least: int = 0) -> int:
    return row.count("input_length", at_least=at_least)


def _number_of(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
