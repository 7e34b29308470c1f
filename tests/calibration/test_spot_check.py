from __future__ import annotations

from pathlib import Path

from kvsim.calibration.spot_check import spot_samples
from kvsim.calibration.staleness import spots_of
from kvsim.engine.model.loading import read_shape
from kvsim.profile.profile import SEGMENTS
from tests.accesses import make_profile


def test_every_segment_and_copies_to_the_device_are_timed_again(tiny_model_path: Path) -> None:
    profile = make_profile()
    link = profile.link.model_copy(update={"stated_bandwidth_bytes_per_s": 2e8, "emulated": True})
    shape = read_shape(tiny_model_path, "fp32")
    found = spot_samples(profile.model_copy(update={"link": link, "shape": shape}), tiny_model_path)
    assert set(found) == {*(f"segments.{name}" for name in SEGMENTS), "link.to_device"}
    assert all(time_s > 0 for rows in found.values() for _, _, time_s in rows)
    (per_page_s,) = {bytes_ / 2e8 for _, bytes_, _ in found["link.to_device"]}
    assert all(time_s > 0.9 * pieces * per_page_s for pieces, _, time_s in found["link.to_device"])
    assert len(spots_of(profile, found)) == len(found)
