import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvsim.caches.blocks import ChainKeys

TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=9), max_size=6)


@given(TEXTS, st.integers(1, 4))
def test_keys_are_equal_exactly_where_all_tokens_up_to_the_block_s_end_are(texts, block_tokens):
    keys = ChainKeys(block_tokens)
    prefixes, first = {}, []
    for number, text in enumerate(texts):
        chain = keys.add(np.array(text, dtype=np.int32))
        assert len(chain) == len(text) // block_tokens
        for place, key in enumerate(chain):
            prefix = tuple(text[: (place + 1) * block_tokens])
            if prefix not in prefixes:
                first.append((number, place))
            assert prefixes.setdefault(prefix, key) == key
    assert sorted(prefixes.values()) == list(range(len(prefixes)))
    assert keys.first_seen == first
