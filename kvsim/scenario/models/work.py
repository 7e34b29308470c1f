"""What a step of a model computes and reads: operations of a token, and bytes of weights at a batch."""

from __future__ import annotations

from kvsim.scenario.models.attention import Attention, Latent
from kvsim.scenario.models.blocks import Experts, Layer, State
from kvsim.scenario.models.memory import packed_layers, packing_of, tensor_bytes, weight_bytes
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.tensors import count


def weights_flop(spec: ModelSpec, *, with_head: bool = True) -> int:
    """Return the operations of one token with the weights: twice the matrices that it passes, routed experts active.

    Parameters
    ----------
    with_head
        Count the product with the head: a prefill needs it for the last token only.
    """
    numbers = sum(_active_numbers(layer, spec.hidden_size) for layer in spec.layers)
    numbers += count(tensor for tensor in spec.outer if tensor.is_linear)
    return 2 * (numbers + (spec.table.numbers if with_head else 0))


def _active_numbers(layer: Layer, hidden_size: int) -> int:
    numbers = count(tensor for tensor in layer.tensors(hidden_size) if tensor.is_linear)
    for mlp in layer.mlps:
        if isinstance(mlp, Experts):
            all_experts = count(t for t in mlp.tensors(hidden_size) if t.part == "experts" and t.is_linear)
            numbers -= all_experts // mlp.num_experts * (mlp.num_experts - mlp.num_active)
    return numbers


def attention_flop(spec: ModelSpec, context_tokens: int) -> int:
    """Return the operations of one token with what is held of a context of `context_tokens`, itself included.

    Attention: two operations for each multiplication of scores and sums, over the tokens that the layer attends to;
    a state: those of its update and its output.
    """
    return sum(
        num_layers * _mixer_flop(mixer, context_tokens)
        for layer, num_layers in spec.layer_counts().items()
        for mixer in layer.mixers
    )


def _mixer_flop(mixer: Attention | Latent | State, context_tokens: int) -> int:
    if isinstance(mixer, State):
        return mixer.flop_per_number * mixer.recurrent_numbers
    limit = mixer.num_chosen_tokens if isinstance(mixer, Latent) else mixer.max_held_tokens
    attended = context_tokens if limit is None else min(context_tokens, limit)
    flop = 2 * mixer.multiplies_per_key * attended
    if isinstance(mixer, Latent) and mixer.indexer is not None:
        flop += 2 * mixer.indexer.num_heads * mixer.indexer.head_dim * context_tokens
    return flop


def expected_experts(num_experts: int, num_active: int, step_tokens: int) -> float:
    r"""Return how many experts of a layer a step reads, if every token chooses evenly and by itself.

    :math:`E (1 - (1 - k/E)^B)` for :math:`B` tokens that choose :math:`k` of :math:`E`; real routers prefer some
    experts, and a batch then reads fewer.

    Examples
    --------
    >>> expected_experts(128, 8, 1)
    8.0
    """
    return num_experts * (1 - (1 - num_active / num_experts) ** step_tokens)


def step_weight_bytes(spec: ModelSpec, step_tokens: int, weights: str | None = None) -> int:
    """Return the expected bytes of weights that a step of `step_tokens` tokens reads from memory.

    Every weight once, but of the embedding table the tokens' rows only, unless the head reads it whole, and of each
    mixture of experts those that some token is sent to.
    """
    packing, plain = packing_of(spec, weights)
    total = float(weight_bytes(spec, weights))
    tables = [spec.table] if not spec.tied_embeddings else []
    tables += [tensor for tensor in spec.outer if tensor.part in ("embeddings", "positions") and tensor.columns > 1]
    for table in tables:
        unread_frac = 1 - min(step_tokens, table.rows) / table.rows
        total -= tensor_bytes(table, packing, plain) * unread_frac
    for (layer, own), num_layers in packed_layers(spec, packing).items():
        for mlp in layer.mlps:
            if isinstance(mlp, Experts):
                idle_frac = 1 - expected_experts(mlp.num_experts, mlp.num_active, step_tokens) / mlp.num_experts
                experts = [tensor for tensor in mlp.tensors(spec.hidden_size) if tensor.part == "experts"]
                total -= num_layers * idle_frac * sum(tensor_bytes(t, own, plain) for t in experts)
    return round(total)
