"""The simulated queue of `benchmarks/cluster_queue.py` against closed forms."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "cluster_queue.py"


@pytest.fixture(scope="module")
def queue():
    specification = importlib.util.spec_from_file_location("cluster_queue", FILE)
    module = importlib.util.module_from_spec(specification)
    sys.modules["cluster_queue"] = module
    specification.loader.exec_module(module)
    yield module
    del sys.modules["cluster_queue"]


@pytest.mark.parametrize("actors", [1, 5, 50])
def test_actors_that_wait_are_machines_and_a_mechanic(queue, actors):
    """Exponential times: below, near and above saturation, which is at 6 actors."""
    plant = queue.Plant(actors, rollout=1.0, service=0.2, waits=True)
    flow = queue.simulate(plant, updates=40_000)
    expected = queue.throughput_of_repair(plant)
    assert flow.rate == pytest.approx(expected, rel=0.02)
    assert flow.busy == pytest.approx(0.2 * expected, rel=0.02)
    assert flow.lag == pytest.approx(actors - 1, abs=0.02)  # each of the others is served once in between


def test_the_closed_form_is_that_of_two_machines(queue):
    """P_0 of two machines by hand: 1 / (1 + 2 r + 2 r^2), r = s / a."""
    plant = queue.Plant(2, rollout=3.0, service=1.5, waits=True)
    assert queue.throughput_of_repair(plant) == pytest.approx((1 - 1 / (1 + 1 + 0.5)) / 1.5, rel=1e-12)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("actors", [1, 3, 20])
def test_fixed_times(queue, waits, actors):
    """N / (a + s) below saturation, 1 / s above; actors that do not wait for their update: N / a."""
    plant = queue.Plant(actors, rollout=1.0, service=0.125, waits=waits, times="fixed")
    cycle = 1.125 if waits else 1.0
    assert queue.simulate(plant, updates=4_000).rate == pytest.approx(min(actors / cycle, 8.0), rel=1e-3)
    late = queue.simulate(dataclasses.replace(plant, waits=False), updates=4_000).lag
    assert late == pytest.approx(actors, abs=0.02)
