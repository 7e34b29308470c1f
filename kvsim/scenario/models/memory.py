"""Bytes that a model takes: its weights in a format, the KV cache of a context, and the activations of a step."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from kvsim.errors import ScenarioError
from kvsim.scenario.models.attention import Attention, Latent
from kvsim.scenario.models.blocks import Layer, State
from kvsim.scenario.models.formats import KVFormat, Quantisation, WeightFormat, kv_format, weight_format
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.tensors import Tensor

ACTIVATION_BYTES = 2
"""Bytes of one number of the activations: engines compute in 16 bits whatever the format of the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVPiece:
    """A stretch of context lengths over which a cache grows evenly: `constant_bytes` + `token_bytes` x tokens."""

    from_tokens: int
    constant_bytes: int
    token_bytes: int


def weight_bytes(spec: ModelSpec, weights: str | None = None) -> int:
    """Return the bytes of all weights.

    Parameters
    ----------
    weights
        A name of `WEIGHT_FORMATS`; None takes the weights as they were published. What a format does not pack stays
        in the published dtype, or in bf16 where that is 32 bits.

    Raises
    ------
    ScenarioError
        If there is no such format, or none is asked for and the configuration gives none.
    """
    packing, plain = packing_of(spec, weights)
    outside = sum(tensor_bytes(tensor, packing, plain) for tensor in (spec.table, *spec.outer, *spec.head))
    return outside + sum(
        num_layers * sum(tensor_bytes(tensor, own, plain) for tensor in layer.tensors(spec.hidden_size))
        for (layer, own), num_layers in packed_layers(spec, packing).items()
    )


def packed_layers(spec: ModelSpec, packing: Quantisation | None) -> dict[tuple[Layer, Quantisation | None], int]:
    """Return how many layers are alike in their blocks and in how they are packed."""
    return dict(Counter((layer, packing_at(packing, index)) for index, layer in enumerate(spec.layers)))


def packing_at(packing: Quantisation | None, index: int) -> Quantisation | None:
    """Return how the linear layers of one layer are packed."""
    if packing is None or not packing.unpacked_layers:
        return packing
    here = {part for layer, part in packing.unpacked_layers if layer == index}
    return replace(packing, unpacked=packing.unpacked | here, unpacked_layers=())


def packing_of(spec: ModelSpec, weights: str | None) -> tuple[Quantisation | None, WeightFormat]:
    """Return how the linear layers are packed, if they are, and the format of everything else."""
    own = spec.dtype or "bf16"
    if weights is None:
        if spec.quantisation is None and spec.dtype is None:
            raise ScenarioError(f'{spec.name}: its config.json has no dtype; name a format of weights, such as "bf16"')
        return spec.quantisation, weight_format(own)
    form = weight_format(weights)
    if weights in ("fp32", "bf16", "fp16"):
        return None, form
    return Quantisation(form=form), weight_format("bf16" if own == "fp32" else own)


def tensor_bytes(tensor: Tensor, packing: Quantisation | None, plain: WeightFormat) -> int:
    """Return the bytes of a tensor, in all its copies."""
    if packing is not None and tensor.part not in packing.unpacked:
        if tensor.part in ("embeddings", "head") and tensor.columns > 1 and packing.form.packs_tables:
            return packing.form.packs_tables.tensor_bytes(tensor)
        if tensor.is_linear and tensor.part in packing.form.packs:
            return packing.form.tensor_bytes(tensor)
    return plain.tensor_bytes(tensor)


def kv_bytes(spec: ModelSpec, num_tokens: int, kv: str = "bf16", *, state: str | None = None) -> int:
    """Return the bytes of the cache of one sequence of `num_tokens`: keys and values held, and constant states.

    A sliding layer holds its window and no more, one that reads an earlier layer's keys holds nothing.

    Parameters
    ----------
    kv
        A name of `KV_FORMATS`. Convolutions of states are held in it too where it is 16 or 32 bits, else in bf16.
    state
        The format of recurrent states; None is the one that the configuration names, or that of the convolutions.
    """
    form = kv_format(kv)
    return sum(
        num_layers * (layer_token_bytes(layer, form, num_tokens) + layer_state_bytes(spec, layer, kv, state))
        for layer, num_layers in spec.layer_counts().items()
    )


def layer_token_bytes(layer: Layer, form: KVFormat, num_tokens: int) -> int:
    """Return the bytes of the keys and values that one layer holds of `num_tokens`."""
    total = 0
    for mixer in layer.mixers:
        if isinstance(mixer, Attention | Latent):
            held = num_tokens if mixer.max_held_tokens is None else min(num_tokens, mixer.max_held_tokens)
            total += held * form.token_bytes(mixer.held_numbers, mixer.held_vectors)
    return total


def layer_state_bytes(spec: ModelSpec, layer: Layer, kv: str, state: str | None) -> int:
    """Return the bytes of the states of one layer, whatever the context."""
    activations = kv_format(kv if kv_format(kv).bits >= 16 else "bf16")
    recurrent = kv_format(state or spec.state_dtype or activations.name)
    return sum(
        activations.token_bytes(mixer.convolution_numbers, 0) + recurrent.token_bytes(mixer.recurrent_numbers, 0)
        for mixer in layer.mixers
        if isinstance(mixer, State)
    )


def kv_pieces(spec: ModelSpec, kv: str = "bf16", *, state: str | None = None) -> tuple[KVPiece, ...]:
    """Return the bytes of one sequence's cache as pieces of straight lines, in the order of context lengths."""
    limits = {
        mixer.max_held_tokens
        for layer in spec.layer_counts()
        for mixer in layer.mixers
        if isinstance(mixer, Attention) and mixer.held_numbers and mixer.max_held_tokens is not None
    }
    pieces = []
    for start in (0, *sorted(limits)):
        first, second = (kv_bytes(spec, start + more, kv, state=state) for more in (0, 1))
        slope = second - first
        pieces.append(KVPiece(from_tokens=start, constant_bytes=first - slope * start, token_bytes=slope))
    return tuple(pieces)


def activation_bytes(
    spec: ModelSpec, step_tokens: int, num_logit_rows: int, *, number_bytes: int = ACTIVATION_BYTES
) -> int:
    r"""Return the most bytes of activations alive at once in a step, and its logits in float32.

    Three tensors of the hidden size are alive in a layer (residual, normed input, output) and those of its widest
    block: in a gated MLP gate and up in one tensor and their product, so that a token takes
    :math:`2 \cdot (3 I + 3 H)` bytes. vLLM reported 2.07 GiB for Llama-3.1-8B and a step of 20,000 tokens (issue
    10517 of its repository), this formula 2.06; for other blocks than the gated MLP it is counted in the same way and
    not checked against an engine.

    Parameters
    ----------
    step_tokens
        Tokens that one step computes for all sequences: a server's token budget, or the sequences of a decode step.
    num_logit_rows
        Rows of logits: one for each sequence whose next token is sampled.
    number_bytes
        Bytes of one number of the activations.
    """
    widest = max(
        (block.live_numbers for layer in spec.layer_counts() for block in (*layer.mixers, *layer.mlps)), default=0
    )
    token_bytes = number_bytes * (widest + 3 * spec.hidden_size)
    return step_tokens * token_bytes + num_logit_rows * spec.vocab_size * 4
