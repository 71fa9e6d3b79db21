"""What steps cost: counted steps only, waits and pauses apart, MFU where the peak is known."""

import time

import numpy as np
import pytest

from skyreels_jax.training import meter
from skyreels_jax.training.meter import Meter
from skyreels_jax.training.peaks import PEAKS, peak


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def test_steps_waits_and_pauses(clock, monkeypatch):
    monkeypatch.setattr(meter, "peak", lambda kind: 1000.0)
    told = Meter(flops=lambda batch: 600 * len(batch), devices=2)
    for _ in range(2):
        with told.waiting():
            clock.now += 0.5
        clock.now += 1.0
        told.add({"x": 0, "y": 0}, 4)
    with told.paused(np.zeros(1)):
        with told.waiting():
            clock.now += 50.0
        clock.now += 7.0
    with told.saving(np.zeros(1)):
        clock.now += 0.25
    clock.now += 1.0
    row = told.read()
    assert row.pop("host_gb") > 0.05
    # 4 seconds: 2400 operations of 2000 a second.
    want = {"clips_per_second": 2.0, "ms_per_step": 2000.0, "data_wait": 0.25, "mfu": 0.3}
    want["save_ms"] = 250.0
    assert row == pytest.approx(want)


def test_a_reading_forgets_the_steps_before_it(clock):
    told = Meter()
    told.add({}, 8)
    clock.now += 2.0
    assert told.read()["clips_per_second"] == 4.0
    assert told.read().keys() == {"host_gb"}  # not 0 clips in 0 seconds
    clock.now += 1.0
    told.add({}, 8)
    assert told.read()["clips_per_second"] == 8.0


def test_no_mfu_without_a_peak_or_a_formula(clock, monkeypatch):
    for most, flops in ((None, lambda batch: 1), (1.0, None)):
        monkeypatch.setattr(meter, "peak", lambda kind, most=most: most)
        told = Meter(flops=flops)
        told.add({}, 1)
        clock.now += 1.0
        assert "mfu" not in told.read()
        assert (told.of == "") == (most is None)


def test_what_a_share_is_of_is_said(monkeypatch):
    class Device:
        device_kind = "TPU v5p"

    monkeypatch.setattr(meter.jax, "devices", lambda: [Device()])
    assert Meter(devices=128).of == "128 x 459 TFLOP/s (TPU v5p, bfloat16)"


def test_memory_is_the_fullest_devices(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.stats = stats

        def memory_stats(self):
            return self.stats

    devices = [Device(None), Device({"peak_bytes_in_use": 3e9}), Device({"peak_bytes_in_use": 2e9})]
    monkeypatch.setattr(meter.jax, "local_devices", lambda: devices)
    assert meter.memory() == {"device_gb": 3.0}


def test_peaks_by_the_names_that_devices_have():
    assert peak("cpu") is None
    assert peak("NVIDIA H100 80GB HBM3") == peak("NVIDIA H200") == 989e12
    assert peak("NVIDIA H100 PCIe") == 756e12
    assert (peak("TPU v5 lite"), peak("TPU v5"), peak("TPU v6 lite")) == (197e12, 459e12, 918e12)
    names = list(
        PEAKS
    )  # the first that fits counts: a longer name has to come before its beginning
    assert all(not b.startswith(a) for i, a in enumerate(names) for b in names[i + 1 :])
