"""What a decoder layer is made of: attention or states, MLPs with experts or without, and norms.

Every block gives its tensors for a hidden size and how wide its widest activations are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from kvsim.scenario.models.attention import Attention, Latent, LayerKind
from kvsim.scenario.models.tensors import Part, Tensor, linear, vector


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A mixer that holds a state of constant size: linear attention, a state space, a short convolution."""

    name: str
    """What it is called: ``mamba``, ``mamba2``, ``gated delta net``, ..."""
    weights: tuple[Tensor, ...]
    convolution_numbers: int
    """Numbers of the last inputs that a convolution holds, in the dtype of the activations."""
    recurrent_numbers: int
    """Numbers of the recurrent state."""
    live_numbers: int
    """Numbers of one token alive at once."""
    flop_per_number: int
    """Operations of one token for each number of the recurrent state."""
    kernel: int = 1
    """Inputs that the convolution sees, the newest among them; 1 where there is none."""

    @property
    def matrix_parameters(self) -> int:
        """Parameters of the mixer's linear layers."""
        return sum(tensor.numbers for tensor in self.weights if tensor.is_linear)

    @property
    def kind(self) -> LayerKind:
        """How the layer remembers."""
        return "state"

    def tensors(self, hidden_size: int) -> tuple[Tensor, ...]:
        """Return the weights."""
        del hidden_size  # known where they were made
        return self.weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """Two projections with an activation between (plain), or three of which one is a gate (gated)."""

    intermediate_size: int
    is_gated: bool = True
    up_bias: bool = False
    down_bias: bool = False
    extra_numbers: int = 0
    """Learned numbers of the activation."""

    @property
    def live_numbers(self) -> int:
        """Numbers of one token alive at once: gate and up in one tensor, and their product."""
        return (3 if self.is_gated else 2) * self.intermediate_size

    def tensors(self, hidden_size: int, part: Part = "mlp", copies: int = 1) -> tuple[Tensor, ...]:
        """Return the weights."""
        up = linear(part, self.intermediate_size, hidden_size, has_bias=self.up_bias, copies=copies)
        down = linear(part, hidden_size, self.intermediate_size, has_bias=self.down_bias, copies=copies)
        return (*up * (2 if self.is_gated else 1), *down, *vector(part, self.extra_numbers, copies=copies))


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts: all lie in memory, a router chooses some for each token, shared ones see every token."""

    num_experts: int
    num_active: int
    expert: Mlp
    expert_input_size: int | None = None
    """Width of the experts' input and output where it is not the hidden size; projections lead there and back."""
    has_input_bias: bool = False
    """Whether those projections have biases."""
    router_bias_numbers: int = 0
    """Biases, corrections and scales of the router."""
    shared: Mlp | None = None
    has_shared_gate: bool = False

    @property
    def live_numbers(self) -> int:
        """Numbers of one token alive at once: its copies in every expert that it visits, and the shared experts'."""
        shared = self.shared.live_numbers if self.shared else 0
        return self.num_active * self.expert.live_numbers + shared

    def tensors(self, hidden_size: int) -> tuple[Tensor, ...]:
        """Return the weights."""
        width = hidden_size if self.expert_input_size is None else self.expert_input_size
        has_bias = self.has_input_bias
        ways = (
            *linear("mlp", width, hidden_size, has_bias=has_bias),
            *linear("mlp", hidden_size, width, has_bias=has_bias),
        )
        return (
            *linear("router", self.num_experts, hidden_size),
            *vector("router", self.router_bias_numbers),
            *self.expert.tensors(width, "experts", self.num_experts),
            *(self.shared.tensors(hidden_size, "shared experts") if self.shared else ()),
            *(linear("router", 1, hidden_size) if self.has_shared_gate else ()),
            *(() if self.expert_input_size is None else ways),
        )


Mixer: TypeAlias = Attention | Latent | State


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One decoder layer: mixers that read the same hidden state, what follows them, and its norms."""

    mixers: tuple[Mixer, ...] = ()
    mlps: tuple[Mlp | Experts, ...] = ()
    norm_numbers: int
    extra: tuple[Tensor, ...] = ()
    """Weights that are none of these, as Gemma 3n's per-layer inputs."""

    @property
    def kind(self) -> str:
        """How it remembers; joined by a plus where it has two mixers."""
        return " + ".join(mixer.kind for mixer in self.mixers) or "none"

    def tensors(self, hidden_size: int) -> tuple[Tensor, ...]:
        """Return the weights."""
        blocks = (*self.mixers, *self.mlps)
        weights = tuple(tensor for block in blocks for tensor in block.tensors(hidden_size))
        return (*weights, *vector("norms", self.norm_numbers), *self.extra)
