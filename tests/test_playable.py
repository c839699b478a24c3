"""What users give becomes what trains: optimisers become searches for policies, solvers become planners."""

import dataclasses
import json
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.algorithms.dynamic_programming.planner import Planner
from advantage.algorithms.playable import playable
from advantage.algorithms.registry import (
    ALGORITHMS,
    algorithm_name,
    default_algorithm,
    from_json,
    hyperparameters_of,
    to_json,
    with_hyperparameters,
)
from advantage.algorithms.search.library_optimisers import from_pycma
from advantage.algorithms.search.optimisers import OPTIMISERS, optimiser_class
from advantage.cli import main


class Point(NamedTuple):
    mean: Any
    cost: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class HillClimbing:
    """A user's own optimiser, which inherits nothing: the best of the incumbent's neighbours."""

    width: float = 1.0

    def population(self, dimension):
        return 10

    def begin(self, x0):
        return Point(x0, jnp.full((), jnp.inf, x0.dtype))

    def ask(self, state, key):
        return state.mean + self.width * jax.random.normal(key, (10, state.mean.size), state.mean.dtype)

    def tell(self, state, candidates, cost):
        best = jnp.argmin(cost)
        better = cost[best] < state.cost
        return Point(
            jnp.where(better, candidates[best], state.mean), jnp.where(better, cost[best], state.cost)
        )

    def spread(self, state):
        return jnp.asarray(self.width, state.mean.dtype)


@dataclasses.dataclass(frozen=True)
class Unknown(HillClimbing):
    """JAX does not know this class."""


@dataclasses.dataclass(frozen=True)
class OneSweep:
    """A user's own solver, which inherits nothing: it wraps another."""

    inner: adv.ValueIteration = adv.ValueIteration()

    def start(self, mdp):
        return self.inner.start(mdp)

    def improve(self, mdp, plan):
        return self.inner.improve(mdp, plan)

    def action_value(self, mdp, plan):
        return self.inner.action_value(mdp, plan)


class Target(gymnasium.Env):
    """An episode is one action; its return is minus the squared distance from 0.5."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), -float((action[0] - 0.5) ** 2), True, False, {}


def test_each_kind_becomes_what_trains():
    assert playable(adv.CEM(candidates=50)) == adv.PolicySearch(adv.CEM(candidates=50))
    assert playable(HillClimbing()) == adv.PolicySearch(HillClimbing())
    assert playable(adv.ValueIteration()) == Planner(adv.ValueIteration())
    assert playable(OneSweep()) == Planner(OneSweep())
    for ready in (adv.PPO(), adv.QLearning(), adv.PolicySearch(adv.CEM()), Planner(adv.ValueIteration())):
        assert playable(ready) is ready


def test_a_users_own_optimiser_finds_a_policy(tmp_path):
    run = adv.train(HillClimbing(), Target, out=tmp_path / "run", total_timesteps=300, workers=0)
    assert abs(float(run.agent.act(np.zeros(2, np.float32))[0]) - 0.5) < 0.1
    written = json.loads((run.path / "config.json").read_text())
    assert written["algorithm"] == "HillClimbing"
    assert written["hyperparameters"]["width"] == 1.0 and written["hyperparameters"]["episodes"] == 1
    assert adv.load(run.path, HillClimbing()).step == run.step
    best = adv.search.minimize(lambda x: jnp.square(x - 1).sum(), np.zeros(2), HillClimbing(0.1))
    assert best.fun < 1e-3


def test_what_is_no_optimiser_is_refused():
    with pytest.raises(ValueError, match=r"optimiser is the class CEM, not an instance; write CEM\(...\)"):
        adv.PolicySearch(adv.CEM)  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        ValueError, match="optimiser is 'cem'; give an optimiser, a dataclass with ask, begin"
    ):
        adv.PolicySearch("cem")  # pyright: ignore[reportArgumentType]
    for refused in (adv.PolicySearch, lambda optimiser: adv.search.minimize(len, [0.0], optimiser)):
        with pytest.raises(ValueError, match="is a Unknown, which is not a registered pytree"):
            refused(Unknown())
    with pytest.raises(ValueError, match="runs on the host only.*use it with adv.search.minimize"):
        adv.PolicySearch(from_pycma())


def test_random_search_normalises_observations_and_no_other_does(capsys):
    for name, cls in ((name, optimiser_class(name)) for name in OPTIMISERS):
        search = adv.PolicySearch(cls(), hidden=(8,))
        assert search.normalize_observation is (name == "ars")
        assert search == playable_with(cls(), hidden=(8,))
        assert main(["train", name, "--help"]) == 0
        shown = " ".join(
            capsys.readouterr().out.replace("│", " ").split("--no-normalize-observation")[1].split()
        )
        assert f"(default: {name == 'ars'}) --clip-observation" in shown
    v1 = adv.PolicySearch(adv.AugmentedRandomSearch(), normalize_observation=False)
    assert v1.normalize_observation is False
    assert dataclasses.replace(v1, hidden=(8,)).normalize_observation is False
    assert adv.preset("ars", "Swimmer-v5").algorithm.normalize_observation


def playable_with(optimiser, **options):
    return with_hyperparameters(playable(optimiser), options)


def test_numbers_of_a_search_and_of_its_optimiser_are_traced():
    """So that changing one compiles nothing."""
    one, other = (adv.PolicySearch(adv.CEM(sigma=x), clip_observation=x) for x in (2, 3.5))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert sorted(jax.tree.leaves(one)) == [0.0, 0.1, 2.0, 2.0]
    assert jax.tree.structure(one) != jax.tree.structure(adv.PolicySearch(adv.CEM(candidates=50)))


WRITTEN = {  # by the version before a search was an optimiser and a policy
    "episodes": 1,
    "common_random_numbers": False,
    "reevaluate": 0,
    "hidden": [8],
    "activation": "tanh",
    "initialisation": "orthogonal",
    "action_bounds": "clip",
    "action_units": "bounds",
    "normalize_observation": True,
    "clip_observation": 10.0,
    "play": "mean",
    "network": None,
    "directions": 16,
    "top_directions": 4,
    "learning_rate": 0.02,
    "sigma": 0.03,
}


def test_a_search_is_one_flat_dictionary_in_files():
    search = from_json("ars", WRITTEN)
    assert search == adv.PolicySearch(adv.AugmentedRandomSearch(top_directions=4), hidden=(8,))
    assert to_json(search) == WRITTEN and list(to_json(search)) == list(WRITTEN)
    assert from_json("ars", {**WRITTEN, "normalize_observation": False}).normalize_observation is False
    missing = {name: value for name, value in WRITTEN.items() if name != "sigma"}
    with pytest.raises(ValueError, match="ars's hyperparameter 'sigma' is missing; its default is 0.03"):
        from_json("ars", missing)
    with pytest.raises(
        ValueError, match="ars has no hyperparameter 'directoins' .the nearest is directions."
    ):
        from_json("ars", {**WRITTEN, "directoins": 3})


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_comes_back_from_its_hyperparameters(name):
    default = default_algorithm(name)
    assert algorithm_name(default) == name
    assert from_json(name, json.loads(json.dumps(to_json(default)))) == default
    assert with_hyperparameters(default, hyperparameters_of(default)) == default
