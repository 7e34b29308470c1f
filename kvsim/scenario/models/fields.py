"""Reads the keys of a `config.json`: what is missing or of a wrong type is gathered, what nobody read is listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.scenario.models.neutral_keys import is_neutral

MAX_SIZE = 2**31
"""No size of a model is larger; one that is, is a mistake."""

MAX_LAYERS = 4096

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "half": "fp16"}


class Fields:
    """The keys of one configuration, of its text part where it has parts.

    Sizes that are missing are gathered in `problems` and read as 1, so that one reading finds all of them: whoever
    reads must look at `problems` before the result.

    Parameters
    ----------
    outer
        The configuration around the text part.
    names
        The family's own names of keys by the usual ones, as GPT-2's ``n_embd`` for ``hidden_size``.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        outer: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._outer = outer or {}
        self._own_names = dict(names or {})
        self._config = {self._usual_name(key): value for key, value in config.items()}
        self._read: set[str] = set()
        self._missing: list[str] = []
        self._wrong: list[str] = []

    def _usual_name(self, key: str) -> str:
        return next((usual for usual, own in self._own_names.items() if own == key), key)

    def __contains__(self, key: str) -> bool:
        """Return whether the key is there and not null."""
        self._read.add(key)
        return self._config.get(key) is not None

    def raw(self, key: str, default: Any = None) -> Any:
        """Return the value of a key as it is, or the default where it is missing or null."""
        self._read.add(key)
        value = self._config.get(key)
        return default if value is None else value

    def size(self, *keys: str, default: int | None = None, least: int = 1) -> int:
        """Return the whole number of the first key that is there; a default is for keys that published files omit."""
        self._read.update(keys)
        key = next((key for key in keys if key in self), None)
        if key is None:
            if default is None:
                self._missing.append(self._own_names.get(keys[0], keys[0]))
                return 1
            return default
        value = self._config[key]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_SIZE:
            self._wrong.append(
                f"{self._own_names.get(key, key)} should be a whole number from {least} to {MAX_SIZE}, is {value!r}"[
                    :120
                ]
            )
            return 1
        return value

    def sizes(self, key: str) -> list[int]:
        """Return one whole number for each layer, from a list or from one number for all."""
        values, length = self.raw(key), self.num_layers()
        if not isinstance(values, list):
            return [self.size(key)] * length
        is_right = all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= MAX_SIZE for v in values)
        if len(values) != length or not is_right:
            self._wrong.append(f"{key} should be a whole number, or a list of {length}, one a layer")
            return [1] * length
        return values

    def num_layers(self) -> int:
        """Return the number of layers."""
        number = self.size("num_hidden_layers")
        if number > MAX_LAYERS:
            self._wrong.append(f"num_hidden_layers should be at most {MAX_LAYERS}")
            return 1
        return number

    def optional_size(self, key: str) -> int | None:
        """Return the whole number of the first key that is there, or None."""
        return self.size(key) if key in self else None

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a truth value; the default is the one of the family's own code."""
        value = self.raw(key, default)
        if not isinstance(value, bool):
            self._wrong.append(f"{key} should be true or false, is {value!r}"[:120])
            return default
        return value

    def number(self, key: str, *, default: float) -> float:
        """Return a number that need not be whole."""
        value = self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SIZE:
            self._wrong.append(f"{key} should be a number of at least 0, is {value!r}"[:120])
            return default
        return float(value)

    def words(self, key: str, known: Mapping[str, str]) -> list[str] | None:
        """Return a list of one word for each layer, each as `known` translates it; None where the key is missing."""
        values = self.raw(key)
        if values is None:
            return None
        length = self.num_layers()
        if not isinstance(values, list) or len(values) != length:
            self._wrong.append(f"{key} should be a list of {length} entries, one a layer")
            return None
        return [self.translated(key, value, known) for value in values]

    def translated(self, key: str, value: Any, known: Mapping[str, str]) -> str:
        """Return kvsim's word for a kind of layer that a key names."""
        if not isinstance(value, str) or value not in known:
            raise UnsupportedError(f"{key}: layers of kind {str(value)[:40]!r}")
        return known[value]

    def indices(self, key: str) -> list[int]:
        """Return a list of layers by number; an empty one where the key is missing."""
        values = self.raw(key, [])
        if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
            self._wrong.append(f"{key} should be a list of whole numbers")
            return []
        return values

    def wrong(self, problem: str) -> None:
        """Note that keys do not go together."""
        self._wrong.append(problem)

    def ignore(self, *keys: str) -> None:
        """Note that the family knows these keys and that they change nothing here."""
        self._read.update(keys)

    def refuse(self, key: str, feature: str, *, unless: tuple[Any, ...] = (None, False, 0)) -> None:
        """Refuse a configuration in which a key asks for a feature that kvsim cannot express."""
        value = self.raw(key)
        if not any(value is harmless or value == harmless for harmless in unless):
            raise UnsupportedError(f"{feature} ({key} = {value!r})"[:160])

    def shared(self, key: str) -> Any:
        """Return the value of a key that may stand outside the text part, such as the dtype."""
        value = self.raw(key)
        return self._outer.get(key) if value is None else value

    def tied(self, *, default: bool) -> bool:
        """Return whether head and embedding table are one; the default is the one of the family's own code.

        As in transformers 5, what stands outside the text part comes before what stands in it.
        """
        inner, outer = self.raw("tie_word_embeddings"), self._outer.get("tie_word_embeddings")
        value = inner if outer is None else outer
        if value is not None and not isinstance(value, bool):
            self._wrong.append(f"tie_word_embeddings should be true or false, is {value!r}"[:120])
        return default if value is None else bool(value)

    @property
    def dtype(self) -> str | None:
        """The dtype of the published weights, in kvsim's words; None where it is missing or is none of them."""
        value = self.shared("dtype") or self.shared("torch_dtype")
        return _DTYPES.get(str(value).removeprefix("torch."))

    @property
    def problems(self) -> list[str]:
        """What keeps the configuration from being read, missing keys in one line."""
        missing = [f"missing {', '.join(dict.fromkeys(self._missing))}"] if self._missing else []
        return missing + list(dict.fromkeys(self._wrong))

    def unread(self) -> Iterator[str]:
        """Yield keys that are there, set to something, that nobody read and that are not known to change no size."""
        for key, value in self._config.items():
            is_set = value is not None and value is not False and value != [] and value != {}
            if is_set and key not in self._read and not is_neutral(key):
                yield self._own_names.get(key, key)


class UnsupportedError(ScenarioError):
    """A configuration asks for something that `ModelSpec` cannot express; the message names it."""
