"""Actors that cannot begin, are lost or hang: what the drivers make of it, with stand-ins for Ray and its actors."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

import advantage as adv
from advantage.drivers.cluster.actors import TRIES, Lost, answer, hung
from advantage.drivers.cluster.synchronous import SynchronousDriver

ray = pytest.importorskip("ray")


def test_an_error_while_an_actor_begins_is_that_of_its_environment():
    """Ray tells it as the death of the actor; a death for another reason is a loss."""
    trace = (
        "Traceback (most recent call last):\n  File ...\nModuleNotFoundError: No module named 'of_one_node'"
    )
    cause = ray.exceptions.RayTaskError("__init__", trace, ModuleNotFoundError("..."), "actor", 1, "10.0.0.5")
    for error, expected, words in (
        (ray.exceptions.ActorDiedError(cause), adv.EnvironmentFailure, "Actor 3 cannot make .*'of_one_node'"),
        (ray.exceptions.ActorDiedError(), Lost, "died unexpectedly"),
    ):
        library = SimpleNamespace(get=MagicMock(side_effect=error), exceptions=ray.exceptions)
        with pytest.raises(expected, match=words):
            answer(library, 3, None, 1.0, "environments 3")


class Stub:
    """Stands for `Actors`: says which were renewed."""

    def __init__(self, timeout=60.0, arrived=(), finished=()):
        self.timeout, self.renewed = timeout, []
        self.arrived = lambda greetings, seconds: [*arrived]
        self.finished = lambda references: [place for place in references if place in finished]

    def renew(self, place, why):
        self.renewed.append(place)

    def hopeless(self, place, why):
        return adv.EnvironmentFailure(f"{place} was lost: {why}")

    def hung(self, place, seconds):
        return hung(place, seconds, "environments")


@pytest.mark.parametrize("losses", [2, TRIES])
def test_actors_that_are_lost_while_episodes_begin_are_replaced(losses):
    driver: Any = SynchronousDriver.__new__(SynchronousDriver)
    driver.actors, begin = Stub(), MagicMock(side_effect=[Lost(1, "its node is gone")] * losses + ["begun"])
    if losses < TRIES:
        assert driver._in_all_actors(begin) == "begun"
        assert driver.actors.renewed == [1, 1]
    else:
        with pytest.raises(adv.EnvironmentFailure, match="1 was lost: its node is gone"):
            driver._in_all_actors(begin)
