"""What the hidden state's way from one device to the next costs where a model's layers lie on several."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.profile.profile import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One such way."""

    transfer_s: float
    submit_s: float
    """Host time to hand its copies over."""


def hop_of(profile: Profile, hidden_bytes: int) -> Hop | None:
    """Return the cost of a hidden state's way to the host and on to the next device, over the profile's link.

    Devices that are joined directly may be faster. None where the link is emulated: such devices share one memory, and
    the profile has no number for a way between two.
    """
    if profile.link.emulated:
        return None
    ways = profile.link.to_host, profile.link.to_device
    return Hop(
        transfer_s=sum(way.transfer_s(1, hidden_bytes) for way in ways), submit_s=sum(way.submit_s for way in ways)
    )
