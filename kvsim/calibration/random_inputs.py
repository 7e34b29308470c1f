"""What calibration runs on: contexts of random keys and values, and models of a shape with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from kvsim.engine.model.loading import TORCH_DTYPES
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.scoring import choose
from kvsim.errors import CalibrationError
from kvsim.policies.selectors import TopK
from kvsim.scenario.shapes import ModelShape
from kvsim.types import IntArray, Scores

_BLOCK_NUMBERS = 1 << 20


def check_llama(shape: ModelShape) -> None:
    """Refuse a shape for which no Llama with random weights can stand.

    Raises
    ------
    CalibrationError
        Naming what a Llama has not.
    """
    others = {
        "learned positions": shape.learned_positions is not None,
        "an MLP without a gate": shape.plain_mlp,
        "experts": shape.experts is not None,
        "layers with a sliding window": shape.window_layers > 0,
        f"weights in {shape.weights}": shape.weights is not None,
        f"a KV cache in {shape.kv}": shape.kv is not None,
    }
    unsupported = [name for name, is_there in others.items() if is_there]
    if unsupported:
        raise CalibrationError(
            f"random weights are those of a Llama; the shape has {' and '.join(unsupported)}: give a model, not a shape"
        )


def random_model(shape: ModelShape, num_layers: int, device: str) -> Any:
    """Return a Llama of `shape`, but of `num_layers` layers, with random weights.

    The weights repeat a block of a million normal numbers: what a matrix holds does not change what it costs.

    Raises
    ------
    CalibrationError
        If the shape has what a Llama has not (`check_llama`).
    """
    check_llama(shape)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        attention_bias=shape.attention_biases is not None,
        head_dim=shape.head_dim,
        max_position_embeddings=131_072,
        tie_word_embeddings=shape.tied_embeddings,
        dtype=TORCH_DTYPES[shape.dtype],
    )
    with no_init_weights(), torch.device(device):
        model = LlamaForCausalLM(config)
    module: torch.nn.Module = model
    module.to(TORCH_DTYPES[shape.dtype])
    block = torch.randn(_BLOCK_NUMBERS, generator=torch.Generator().manual_seed(0)) * 0.02
    block = block.to(device, TORCH_DTYPES[shape.dtype])
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                _repeat_into(parameter, block)
    return module.train(False)


def random_tokens(shape: ModelShape, num_layers: int, num_tokens: int, *, device: str) -> torch.Tensor:
    """Return random keys and values of `num_tokens` tokens in all, ``[num_layers * num_tokens, 2, kv heads, dim]``."""
    dims = (num_layers * num_tokens, 2, shape.num_kv_heads, shape.head_dim)
    tokens = torch.empty(dims, dtype=TORCH_DTYPES[shape.dtype], pin_memory=device == "cuda")
    block = torch.randn(_BLOCK_NUMBERS + 7919, generator=torch.Generator().manual_seed(1))
    _repeat_into(tokens, block.to(tokens.dtype))
    return tokens


def random_snapshot(tokens: torch.Tensor, *, num_layers: int, num_sequences: int, prompt_tokens: int) -> Snapshot:
    """Return `tokens` of `random_tokens` as the context of `num_sequences` sequences of `prompt_tokens` each."""
    room = len(tokens) // (num_layers * num_sequences)
    shaped = tokens[: num_sequences * num_layers * room].view(num_sequences, num_layers, room, *tokens.shape[1:])
    return Snapshot(
        tokens=shaped, prompt_tokens=prompt_tokens, next_token=torch.zeros((num_sequences, 1), dtype=torch.int64)
    )


def _repeat_into(target: torch.Tensor, block: torch.Tensor) -> None:
    flat = target.view(-1)
    for start in range(0, flat.numel(), block.numel()):
        part = flat[start : start + block.numel()]
        part.copy_(block[: part.numel()])


class Schedule:
    """A top-k selector whose k is set before each step; over random keys and fresh queries its choices are random."""

    def __init__(self) -> None:
        self._top_k = TopK(k_pages=0, sink_pages=0, recent_pages=0)

    def attend(self, num_pages: int) -> None:
        """Have the next selections hold `num_pages` pages, the open one among them."""
        self._top_k = TopK(k_pages=num_pages - 1, sink_pages=0, recent_pages=0)

    def select(self, scores: Scores, num_pages: int) -> IntArray:
        """Return the open page and the best of the others."""
        return choose(self._top_k, scores, num_pages)

    def max_pages(self, num_pages: int) -> int:
        """Return the size of every selection from `num_pages` pages."""
        return self._top_k.max_pages(num_pages)


def random_ids(rng: np.random.Generator, num_sequences: int, vocab_size: int) -> torch.Tensor:
    """Return a random token for each sequence, ``[num_sequences, 1]``."""
    return torch.from_numpy(rng.integers(0, vocab_size, (num_sequences, 1)))
