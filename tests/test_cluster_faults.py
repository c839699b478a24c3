"""Actors that cannot begin, are lost or hang: what the drivers make of it, with stand-ins for Ray and its actors."""

import itertools
import pickle
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest
from probe_learners import DISCRETE, OBS

import advantage as adv
from advantage.drivers.cluster import actors, games
from advantage.drivers.cluster.actors import START_SECONDS, TRIES, Actors, Lost, answer, hung
from advantage.drivers.cluster.asynchronous import Absent, AsynchronousDriver, Ordered
from advantage.drivers.cluster.games import ClusterGames
from advantage.drivers.cluster.synchronous import SynchronousDriver
from advantage.drivers.search.games import Chance

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

    def settle(self, places):
        pass

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


class Places(Actors):
    """Actors of a pretended Ray; those in `running` have a process."""

    def __init__(self, number, monkeypatch, cores):
        self.running, self.killed, self.made = set(), [], itertools.count()
        self.ray = SimpleNamespace(
            wait=lambda references, **_: ([each for each in references if each in self.running], []),
            kill=self.killed.append,
        )
        self.seekers, self.lost, self.shares = {}, 0, [[place] for place in range(number)]
        self.handles = [self._new(place) for place in range(number)]
        monkeypatch.setattr(actors, "cores_of_cluster", lambda: cores)

    def _new(self, place, *, cores=1):
        return f"{next(self.made)}: {place} with {cores}"

    def greeting(self, place):
        return self.handles[place]


def test_an_actor_without_a_core_shares_one_until_there_is_its_own(monkeypatch):
    of_three, replayed = Places(3, monkeypatch, cores=2), []
    of_three.running = {"0: 0 with 1", "1: 1 with 1"}
    of_three.settle(range(3))
    assert of_three.handles == ["0: 0 with 1", "1: 1 with 1", "3: 2 with 0"] and of_three.with_cores() == 2
    of_three.move(replayed.append)
    assert not replayed and not of_three.killed
    with pytest.warns(actors.ClusterWarning, match="is lost"):  # it shares again, and its seeker still waits
        of_three.replace(2, "killed", lambda place: [])
    assert of_three.handles[2] == "4: 2 with 0" and of_three.seekers[2].handle == "2: 2 with 1"
    of_three.running.add("2: 2 with 1")

    def replay(place):
        replayed.append(of_three.handles[place])
        return []

    of_three.move(replay)
    assert of_three.handles[2] == "2: 2 with 1" and replayed == ["2: 2 with 1"] and not of_three.seekers
    assert of_three.killed == ["3: 2 with 0", "4: 2 with 0"]


def test_a_small_policy_travels_with_each_order_and_a_large_one_once_to_each_node(monkeypatch):
    of_one = Places(1, monkeypatch, cores=1)
    of_one.ray.put = lambda weights: "stored"
    version, weights = pickle.loads(of_one.share((3, {"w": np.arange(5.0)})))
    assert version == 3 and weights["w"].tolist() == [0, 1, 2, 3, 4]
    assert of_one.share((3, {"w": np.zeros(20_000, np.float32)})) == "stored"


def test_an_actor_whose_core_somebody_else_has_shares_one(monkeypatch):
    """There are cores enough for two, but one process does not come; a look takes 20 s."""
    monkeypatch.setattr(actors, "time", SimpleNamespace(monotonic=itertools.count(0, 20).__next__))
    of_two = Places(2, monkeypatch, cores=2)
    of_two.running = {"0: 0 with 1"}
    of_two.settle(range(2))
    assert of_two.handles == ["0: 0 with 1", "2: 1 with 0"] and [*of_two.seekers] == [1]


def test_an_actor_that_is_lost_where_it_moves_is_replaced(monkeypatch):
    of_one = Places(1, monkeypatch, cores=0)
    of_one.settle([0])
    of_one.running = {"0: 0 with 1"}
    replay = MagicMock(side_effect=[Lost(0, "its node is gone"), []])
    with pytest.warns(actors.ClusterWarning, match="its node is gone"):
        of_one.move(replay)
    assert of_one.lost == 1 and replay.call_count == 2 and of_one.handles == ["3: 0 with 0"]


def asynchronous(orders=(), absent=(), **stub):
    driver: Any = AsynchronousDriver.__new__(AsynchronousDriver)
    driver.actors, driver.places = Stub(**stub), range(2)
    driver.orders = {place: Ordered(None, 0, time.monotonic() - age) for place, age in dict(orders).items()}
    driver.absent = {place: Absent(None, {}) for place in absent}
    driver.seconds = {0: 10.0, 1: 12.0}
    return driver


def test_all_actors_may_be_absent_for_as_long_as_a_process_needs():
    driver = asynchronous(absent=(0, 1))
    assert driver._take_up(1.0) == []
    with pytest.raises(adv.EnvironmentFailure, match="has not answered for 300 s"):
        driver._take_up(START_SECONDS)


def test_an_actor_that_hangs_is_noticed_while_others_answer():
    asynchronous({0: 1, 1: 70})._refuse_hung()  # 60 s longer than the others take
    asynchronous({0: 1, 1: 75}, finished=(1,))._refuse_hung()  # its rollout waits for the learner
    with pytest.raises(adv.EnvironmentFailure, match="Actor 1 .*has not answered for 75 s"):
        asynchronous({0: 1, 1: 75})._refuse_hung()
    first = asynchronous({0: 1, 1: 75})
    first.seconds = {0: 10.0}
    first._refuse_hung()  # it starts, and compiles


@pytest.mark.parametrize(("answered", "seconds"), [(0, 300), (1, 310), (2, 80)])
def test_a_candidate_that_hangs_ends_a_search(answered, seconds, monkeypatch):
    """After 60 s more than the longest game, here of 10 s; a process and its first game have 300. A look takes 10 s."""
    library = MagicMock(exceptions=ray.exceptions)
    library.get.return_value = (1.0, 5, np.zeros(0), np.zeros(0), np.zeros((0, 2)))
    answers = [True] * answered
    library.wait.side_effect = lambda references, **_: (references if answers and answers.pop() else [], [])
    library.remote.return_value.options.return_value.remote.return_value.play.remote.side_effect = lambda *_: (
        object()
    )
    monkeypatch.setattr(games, "ray_library", lambda: library)
    monkeypatch.setattr(games, "time", SimpleNamespace(monotonic=itertools.count(0, 10).__next__))
    search, spec = adv.PolicySearch(adv.CEM(), hidden=(4,)), adv.Spec(OBS, DISCRETE, 1, 64)
    player = ClusterGames(search, lambda: None, spec, 1, timeout=60.0)  # pyright: ignore[reportArgumentType]
    player.start(2)
    with pytest.raises(adv.EnvironmentFailure, match=f"Actor 0 .*has not answered for {seconds} s"):
        player.play((), np.zeros((2, 3)), Chance(np.arange(2), jax.random.key(0), 0, 0), 1000, lambda: False)
