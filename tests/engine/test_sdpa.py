"""cuDNN's attention stays out of decode steps, and comes back after them."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.model.sdpa import cudnn_left_out  # noqa: E402
from kvsim.engine.paged.decode import undisturbed  # noqa: E402


@pytest.mark.parametrize("block", [undisturbed, cudnn_left_out])
def test_cudnn_is_left_out_while_the_block_lasts_and_no_longer(block):
    assert torch.backends.cuda.cudnn_sdp_enabled()  # torch's default
    with pytest.raises(KeyError), block():
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        raise KeyError
    assert torch.backends.cuda.cudnn_sdp_enabled()
