"""Some layers of a model, where its layers lie on several devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """Layers with pages in a row, those of one device: who asks a model for its layers gets these of a part."""

    model: Any
    layers: range

    @property
    def config(self) -> Any:
        """The whole model's."""
        return self.model.config

    @property
    def device(self) -> Any:
        """The model's: all of its parts are on devices of one type."""
        return self.model.device

    @property
    def dtype(self) -> Any:
        """The model's."""
        return self.model.dtype
