"""Prefix caching: blocks of prompts kept for the next prompt that begins alike, and which of them leave.

A block is a full run of tokens, known by a hash of itself and everything before it (`hashing`). `PrefixCache` is the
plain cache as vLLM has it, `RadixCache` the same as a radix tree, as SGLang has it; `replay` runs either over a whole
trace, the plain one compiled. `PromptBooks` keeps whole prompts instead, of any length, found token by token.
"""

from kvsim.prefix.cache import Admitted, PrefixCache
from kvsim.prefix.evictions import EVICTIONS, make_eviction
from kvsim.prefix.hashing import hash_blocks
from kvsim.prefix.prompts import PromptBooks, TierBudget
from kvsim.prefix.radix import RadixCache
from kvsim.prefix.replay import Replayed, replay, replay_plain, replay_radix

__all__ = [
    "EVICTIONS",
    "Admitted",
    "PrefixCache",
    "PromptBooks",
    "RadixCache",
    "Replayed",
    "TierBudget",
    "hash_blocks",
    "make_eviction",
    "replay",
    "replay_plain",
    "replay_radix",
]
