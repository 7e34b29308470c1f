"""Everything on the device and all of it read: what a model costs that fits, with nothing lost."""

from __future__ import annotations

from typing import ClassVar, Literal

from kvsim.policies.standalone.resident import Resident


class Dense(Resident):
    """Keep every page on the device, and read every page: full attention, whatever the selector says."""

    attends: ClassVar[Literal["selection", "everything", "resident"]] = "everything"
