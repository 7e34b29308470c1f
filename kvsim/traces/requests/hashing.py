"""The name of a block: a hash of its tokens, its parent's name, and whatever else must not be shared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

DIGEST_BYTES = 8
"""Names are 63-bit: among a million blocks two share a name with probability 5e-8."""


def hash_blocks(tokens: ArrayLike, block_tokens: int, extra_keys: Sequence[str] = ()) -> tuple[int, ...]:
    """Return the names of the full blocks of `tokens`, each hashed with its parent's; a partial block has none.

    As vLLM's ``hash_block_tokens`` (``vllm/v1/core/kv_cache_utils.py``), with one change: `extra_keys` (an adapter, a
    salt) go into the parent of the first block, which the chain carries on, instead of into every block.

    Parameters
    ----------
    tokens
        Token ids of one prompt, ``[num_tokens]``.
    extra_keys
        What a prompt must have in common, besides its tokens, to share blocks.

    Examples
    --------
    >>> first, second = hash_blocks([1, 2, 3, 4, 5], 2)
    >>> hash_blocks([1, 2, 9, 9], 2)[0] == first, hash_blocks([9, 9, 3, 4], 2)[1] == second
    (True, False)
    >>> hash_blocks([1, 2], 2, ["adapter-7"]) == (first,)
    False
    """
    content = np.ascontiguousarray(tokens, dtype="<u4")
    name = b"".join(len(key.encode()).to_bytes(4, "little") + key.encode() for key in extra_keys)
    if name:
        name = hashlib.blake2b(name, digest_size=DIGEST_BYTES).digest()
    names = []
    for start in range(0, content.size - block_tokens + 1, block_tokens):
        block = hashlib.blake2b(name, digest_size=DIGEST_BYTES)
        block.update(content[start : start + block_tokens].tobytes())
        name = block.digest()
        names.append(int.from_bytes(name, "little") >> 1)
    return tuple(names)
