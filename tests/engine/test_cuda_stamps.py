"""Parts of a step on the device's clock, over events that a test fires: there is no GPU in it."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.calibration import cuda  # noqa: E402
from kvsim.engine.paged.cuda_stamps import EventStamps  # noqa: E402
from kvsim.engine.paged.stamps import LAYER_PARTS  # noqa: E402

LAYERS, STEPS = 2, 3


class _Event:
    """Fires at the device's time when it is recorded; ten milliseconds pass between two."""

    now_ms = 0.0

    def __init__(self, enable_timing=False):
        assert enable_timing

    def record(self, stream=None):
        del stream
        self.fired_ms = _Event.now_ms

    def synchronize(self):
        pass

    def elapsed_time(self, other):
        return other.fired_ms - self.fired_ms


def test_parts_are_the_devices_and_choosing_counts_as_waiting_for_the_host(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    stamps = EventStamps()
    for _ in range(STEPS):
        for place in range(3 + 10 * LAYERS):
            stamps.mark()
            _Event.now_ms += 1 + place  # part p of a step takes 1 + p ms
    parts = stamps.parts_s(LAYERS)
    np.testing.assert_allclose(parts["embed"], [1e-3] * STEPS)
    np.testing.assert_allclose(parts["head"], [(2 + 10 * LAYERS) * 1e-3] * STEPS)
    for layer in range(LAYERS):
        expected = {name: (2 + place + 10 * layer) * 1e-3 for place, name in enumerate(LAYER_PARTS)}
        expected |= {"sync": expected["sync"] + expected["choose"], "choose": 0.0}
        for name, part_s in expected.items():
            np.testing.assert_allclose(parts[name][:, layer], [part_s] * STEPS)


def test_calibration_puts_the_device_to_sleep_once_a_step_and_after_each_read_back(monkeypatch):
    slept = []
    monkeypatch.setattr(torch.cuda, "Event", _Event)
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append, raising=False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: _Event(enable_timing=True))
    monkeypatch.setattr(cuda, "cycles_per_s", lambda: 1e9)
    stamps = cuda.DeviceStamps()
    stamps.expect(LAYERS)
    after = []
    for _ in range(STEPS):
        for place in range(3 + 10 * LAYERS):
            count = len(slept)
            stamps.mark()
            _Event.now_ms += 1
            if len(slept) > count:
                after.append(place)
    choose = 1 + LAYER_PARTS.index("choose")
    assert after == [0, choose, choose + 10] * STEPS
    assert set(slept) == {4_000_000}
    parts = stamps.parts_s(LAYERS)
    assert not parts["sync"].any()  # it holds the sleep
    np.testing.assert_allclose(parts["attention"], 1e-3)
