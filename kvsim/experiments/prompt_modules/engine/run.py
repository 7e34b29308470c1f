"""Answers prompts out of stored modules: encodes each alone at its positions, puts a prompt's together, goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from transformers import DynamicCache

from kvsim.engine.links.page_pool import EngineError
from kvsim.engine.links.states import KVStates, StateLink, keep, move, restore
from kvsim.engine.model.first_token import FirstToken, Stopwatch, prefill_logits
from kvsim.engine.model.forward import logits_of
from kvsim.experiments.prompt_modules.accounting import ModuleStoreState
from kvsim.experiments.prompt_modules.schema import Assembly, Layout, Unit
from kvsim.experiments.prompt_modules.schema.masks import module_mask, position_mask
from kvsim.types import Tier

IdsOf: TypeAlias = Callable[[str], Sequence[int]]
"""Returns the token ids of a text."""

Seen: TypeAlias = Literal["all", "before"]
"""What arguments and new text attend to: every state of the prompt, or those of no later position."""

_TOGETHER_TOKENS = 2048
"""Units are encoded side by side up to so many tokens: their mask grows with the square."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered(FirstToken):
    """The first token of one prompt, and what it took from the store (`COUNTED`); counted where it happened."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    hit_tokens: int = 0
    encoded_tokens: int = 0
    held_bytes: int = 0
    """What the store holds afterwards."""


class ModuleStore:
    """States of units on one tier, by number; it decides nothing."""

    def __init__(self, tier: Tier, link: StateLink) -> None:
        self._tier = tier
        self._link = link
        self._states: dict[int, KVStates] = {}

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(states.nbytes for states in self._states.values())

    def __len__(self) -> int:
        return len(self._states)

    def get(self, unit: int) -> KVStates:
        """Return the states of a unit that is here."""
        if unit not in self._states:
            raise EngineError(f"unit {unit} is not in the store, though the cache state says so")
        return self._states[unit]

    def put(self, unit: int, states: KVStates) -> None:
        """Take states, still where they were made."""
        self._states[unit] = states

    def drop(self, unit: int) -> None:
        """Give up the states of a unit."""
        del self._states[unit]

    def settle(self) -> None:
        """Move what was put since to the tier, one transfer a unit."""
        for unit, states in self._states.items():
            self._states[unit] = move(states, self._tier, self._link)


class ModuleRunner:
    """One model that reads the prompts of one layout.

    Parameters
    ----------
    placeholder_id
        The token that stands for an argument while its module is encoded.
    chunk_tokens
        Tokens of one call of the model.
    """

    def __init__(
        self,
        model: Any,
        layout: Layout,
        ids_of: IdsOf,
        *,
        placeholder_id: int,
        link: StateLink,
        chunk_tokens: int = 512,
        seen: Seen = "all",
    ) -> None:
        self._model = model
        self._layout = layout
        self._ids_of = ids_of
        self._placeholder_id = placeholder_id
        self._link = link
        self._chunk_tokens = chunk_tokens
        self._seen = seen

    def encode(self, unit: Unit) -> KVStates:
        """Return the states of a unit that sees nothing but itself, on the device."""
        cache = DynamicCache(config=self._model.config)
        self._read(self._unit_ids(unit), unit.positions, cache)
        return keep(cache, tier="device", link=self._link)

    def encode_together(self, units: Sequence[Unit]) -> list[KVStates]:
        """Return the states of many units, on the device, from few calls: under the module mask none sees another."""
        states: list[KVStates] = []
        for group in _groups(units):
            ids = [token for unit in group for token in self._unit_ids(unit)]
            positions = [position for unit in group for position in unit.positions]
            mask = module_mask([unit.number for unit in group for _ in range(unit.num_tokens)])
            cache = DynamicCache(config=self._model.config)
            with torch.inference_mode():
                logits_of(
                    self._model,
                    self._tensor(ids),
                    cache,
                    position_ids=self._tensor(positions),
                    attention_mask=self._mask(mask),
                    logits_to_keep=1,
                )
            stops = np.cumsum([unit.num_tokens for unit in group]).tolist()
            starts = [0, *stops[:-1]]
            states += [
                keep(cache, start, stop, tier="device", link=self._link)
                for start, stop in zip(starts, stops, strict=True)
            ]
        return states

    def answer(self, assembly: Assembly, state: ModuleStoreState, store: ModuleStore) -> Answered:
        """Return a prompt's first token; what was missing is encoded, and stored once the token is there."""
        watch = Stopwatch()
        served = state.serve(assembly.units)
        states: dict[int, KVStates] = {}
        hit_sizes: list[int] = []
        missed_sizes: list[int] = []
        evictions = 0
        for number, is_hit, victim, enters in zip(
            served.units, served.is_hit, served.victims, served.is_let_in, strict=True
        ):
            states[number] = store.get(number) if is_hit else self.encode(self._layout.units[number])
            (hit_sizes if is_hit else missed_sizes).append(states[number].num_tokens)
            if victim is not None:
                store.drop(victim)
                evictions += 1
            if enters and not is_hit:
                store.put(number, states[number])
        logits, _ = self.first(assembly, states)
        timed = watch.stop(logits)
        store.settle()
        return Answered(
            **timed,
            hits=len(hit_sizes),
            misses=len(missed_sizes),
            evictions=evictions,
            hit_tokens=sum(hit_sizes),
            encoded_tokens=sum(missed_sizes),
            held_bytes=store.nbytes,
        )

    def first(self, assembly: Assembly, states: dict[int, KVStates]) -> tuple[torch.Tensor, DynamicCache]:
        """Return the logits of a prompt's first token, ``[vocab_size]``, and the cache of the whole prompt.

        Arguments and new text are computed at their positions, behind the states of all units, and see what `seen`
        says.
        """
        parts = [states[part.unit].tokens(part.start, part.stop) for part in assembly.parts]
        cache = restore(parts, self._link)
        ids = [token for fresh in assembly.fresh for token in self._ids_of(fresh.text)]
        positions = [fresh.position + at for fresh in assembly.fresh for at in range(fresh.num_tokens)]
        mask = None
        if self._seen == "before":
            reused = [part.position + at for part in assembly.parts for at in range(part.stop - part.start)]
            mask = self._mask(position_mask(positions, [*reused, *positions]))
        return self._read(ids, positions, cache, mask), cache

    def full(self, assembly: Assembly) -> tuple[Answered, DynamicCache]:
        """Return the first token of the same text under full attention, without any store, and the cache."""
        watch = Stopwatch()
        ids = [token for text in assembly.texts for token in self._ids_of(text)]
        cache = DynamicCache(config=self._model.config)
        logits = self._read(ids, list(range(len(ids))), cache)
        return Answered(**watch.stop(logits)), cache

    def follow(
        self, cache: DynamicCache, first: torch.Tensor, position: int, num_tokens: int, forced: Sequence[int] | None
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the logits of `num_tokens` tokens from the first on, ``[num_tokens, vocab_size]``, and what was fed.

        Parameters
        ----------
        first
            Logits of the first token, at `position`.
        forced
            Tokens to feed; the likeliest ones where None.
        """
        logits, fed = [first.float().cpu()], []
        for step in range(num_tokens - 1):
            fed.append(int(logits[-1].argmax()) if forced is None else forced[step])
            logits.append(self._read([fed[-1]], [position + step], cache).float().cpu())
        return torch.stack(logits), fed

    def _read(
        self, ids: Sequence[int], positions: Sequence[int], cache: DynamicCache, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Read tokens at their positions into the cache; return the logits of the last, ``[vocab_size]``."""
        return prefill_logits(
            self._model,
            self._tensor(ids),
            cache,
            chunk_tokens=self._chunk_tokens,
            positions=self._tensor(positions),
            mask=mask,
        )[0]

    def _unit_ids(self, unit: Unit) -> list[int]:
        ids: list[int] = []
        for span in unit.spans:
            own = [self._placeholder_id] * span.num_tokens if span.text is None else list(self._ids_of(span.text))
            assert len(own) == span.num_tokens  # one tokenizer laid the schema out
            ids += own
        return ids

    def _tensor(self, numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(numbers)], device=self._model.device)

    def _mask(self, mask: Any) -> torch.Tensor:
        """Return a mask of two axes as the model takes it, ``[1, 1, looking, seen]``."""
        return torch.from_numpy(mask).to(device=self._model.device, dtype=self._model.dtype)[None, None]


def _groups(units: Sequence[Unit]) -> list[list[Unit]]:
    groups: list[list[Unit]] = []
    size = _TOGETHER_TOKENS
    for unit in units:
        if size + unit.num_tokens > _TOGETHER_TOKENS:
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += unit.num_tokens
    return groups
