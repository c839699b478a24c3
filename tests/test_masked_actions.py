"""No algorithm takes an action that a mask forbids: in worlds that raise where one arrives."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_worlds import Masked

import advantage as adv
from advantage.algorithms.registry import (
    ALGORITHMS,
    algorithm_class,
    default_algorithm,
    hyperparameters_of,
    with_hyperparameters,
)
from advantage.types import Rollout

ROOMS, CHOICES = 4, 5


class Corridor(gymnasium.Env):
    """Rooms of which each allows other choices; with `drawn`, the mask of a room differs from visit to visit."""

    def __init__(self, drawn=False):
        self.drawn = drawn
        self.observation_space, self.action_space = spaces.Discrete(ROOMS), spaces.Discrete(CHOICES)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.room = 0, int(self.np_random.integers(ROOMS))
        return self.room, self.info()

    def step(self, action):
        assert self.mask[action], f"{action} is not allowed by {self.mask} in room {self.room}"
        self.t += 1
        reward = float(action == self.mask.nonzero()[0][-1])
        self.room = (self.room + int(action)) % ROOMS
        ended = self.np_random.random() < 0.1
        return self.room, reward, ended, not ended and self.t == 20, self.info()

    def info(self):
        self.mask = mask_of(self.room)
        if self.drawn:
            self.mask = (self.np_random.random(CHOICES) < 0.4).astype(np.int8)
            self.mask[self.np_random.integers(CHOICES)] = 1
        return {"action_mask": self.mask}


def mask_of(room):
    """At least two choices in each room, and other ones in the next."""
    return np.array([(choice + room) % 3 != 0 for choice in range(CHOICES)], np.int8)


SMALL: dict[str, Any] = {
    "n_steps": 16,
    "batch_size": 16,
    "hidden": (8,),
    "candidates": 6,
    "buffer_size": 256,
    "learning_starts": 16,
    "max_episode": 32,
    "top_directions": 2,
}
WITH_NETWORKS = [name for name in ALGORITHMS if ALGORITHMS[name].startswith(("policy_gradient", "search"))]
WITH_TABLES = [
    name for name in ALGORITHMS if ALGORITHMS[name].startswith("tabular") and name != "monte-carlo-off-policy"
]


KINDS = None, spaces.Tuple((spaces.Discrete(3), spaces.MultiDiscrete([2, 4])))


def small(name):
    """An algorithm with its defaults, but for what would take long."""
    default = default_algorithm(name)
    known = hyperparameters_of(default)
    return with_hyperparameters(default, {key: value for key, value in SMALL.items() if key in known})


def train(algorithm, environment, folder, **options):
    options = {"total_timesteps": 192, "eval_episodes": 5, "workers": 0, "out": folder / "run"} | options
    return adv.train(algorithm, environment, **options)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in WITH_NETWORKS for kind in KINDS if (name, kind) != ("q-prop", KINDS[1])],
)
def test_promise_10_no_policy_takes_a_masked_action(name, kind, tmp_path):
    """Sampling, replay and greedy evaluation, in this run and from its checkpoint."""
    steps = 3000 if name == "finite-differences" else 192
    run = train(small(name), functools.partial(Masked, "info", kind), tmp_path, total_timesteps=steps)
    assert np.isfinite(run.evaluation.mean)
    agent, environment = adv.load(run.path), functools.partial(Masked, "info", kind)
    assert len(adv.evaluate(agent, environment, episodes=5, deterministic=False).returns) == 5


@pytest.mark.parametrize("network", ["gru", "lstm"])
def test_promise_10_nor_does_a_policy_with_memory(network, tmp_path):
    algorithm = adv.PPO(n_steps=16, batch_size=16, hidden=(8,), network=network)
    run = train(algorithm, Masked, tmp_path, num_envs=2)
    assert np.isfinite(run.evaluation.mean)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("name", WITH_TABLES)
def test_promise_10_no_table_takes_a_masked_action(name, drawn, tmp_path):
    run = train(small(name), functools.partial(Corridor, drawn), tmp_path, num_envs=2)
    assert np.isfinite(run.evaluation.mean)
    adv.evaluate(run.agent, functools.partial(Corridor, drawn), episodes=5, deterministic=False)


@pytest.mark.parametrize("name", ["q-learning", "expected-sarsa", "double-q-learning", "dyna"])
def test_maxima_and_means_leave_masked_actions_out(name, tmp_path):
    """What was never tried keeps its initial value, the largest of all; it would be taken if it counted."""
    algorithm = algorithm_class(name)(initial_value=100.0, gamma=0.0, learning_rate=1.0, epsilon=1.0)
    run = train(algorithm, Corridor, tmp_path, total_timesteps=2000, eval_episodes=0)
    q = np.asarray(run.agent.state.table.q)
    forbidden = np.array([mask_of(room) == 0 for room in range(ROOMS)])
    assert (q[..., forbidden] == 100).all() and (
        np.asarray(run.agent.state.table.allowed) == ~forbidden
    ).all()
    assert np.isin(q[..., ~forbidden], [0.0, 1.0]).all()
    evaluation = adv.evaluate(run.agent, Corridor, episodes=50)
    np.testing.assert_allclose(evaluation.returns, evaluation.lengths)  # the last choice that is allowed


def test_a_bonus_for_what_was_long_not_tried_does_not_bring_masked_actions_back(tmp_path):
    run = train(adv.Dyna(exploration_bonus=1.0), Corridor, tmp_path, total_timesteps=500)
    assert np.isfinite(run.evaluation.mean)  # `Corridor` raises


def test_methods_that_cannot_use_masks_say_so(tmp_path):
    with pytest.raises(ValueError, match="monte-carlo-off-policy weights returns by two tables"):
        train(adv.MonteCarloOffPolicy(), Corridor, tmp_path)

    class Arms(Corridor):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Discrete(1)

    with pytest.raises(ValueError, match="must be able to pull every arm.*use a method with a table"):
        train(adv.UCB(), Arms, tmp_path)


def test_gradients_do_not_see_masked_logits(tmp_path):
    """The bias of an action that is never allowed does not move; those of the others do."""

    class Never(Corridor):
        def info(self):
            self.mask = np.array([1, 1, 0, 1, 0], np.int8)
            return {"action_mask": self.mask}

    run = train(adv.PPO(n_steps=32, batch_size=32, ent_coef=0.1, max_grad_norm=None), Never, tmp_path)
    before = run.agent.algorithm.init(jax.random.split(jax.random.key(0), 3)[0], run.agent.spec).params[
        "actor"
    ]["head"]
    moved = jnp.abs(run.agent.state.params["actor"]["head"]["bias"] - before["bias"]) > 0
    np.testing.assert_array_equal(moved, [True, True, False, True, False])


@pytest.mark.parametrize("name", ["sarsa", "sarsa-lambda", "dyna"])
def test_a_target_obeys_the_mask_of_its_own_successor(name):
    """An action that was possible in a state before, and now is not, has no part in what the state is worth."""
    space = spaces.Dict({"room": spaces.Discrete(2), "action_mask": spaces.MultiBinary(2)})
    own = {"learning_rate": 0.5, "epsilon": 0.0} | ({"planning_steps": 0} if name == "dyna" else {})
    algorithm = with_hyperparameters(default_algorithm(name), own)
    update = jax.jit(algorithm.update)
    state = algorithm.init(jax.random.key(0), adv.Spec(space, spaces.Discrete(2), 1, 100))

    def step(room, reward, following, mask, ends):
        obs, next_obs = (
            {"room": jnp.full((1, 1), x, jnp.int32), "action_mask": jnp.array([[m]], jnp.int8)}
            for x, m in ((room, [1, 1]), (following, mask))
        )
        end = [jnp.full((1, 1), ends == kind) for kind in ("terminated", "truncated")]
        return Rollout(obs, jnp.zeros((1, 1), jnp.int32), jnp.full((1, 1), reward), next_obs, *end)

    for seen in (step(1, 10.0, 0, [1, 1], "terminated"), step(0, 0.0, 1, [0, 1], "truncated")):
        state, _ = update(state, seen, jax.random.key(0))
    np.testing.assert_array_equal(state.table.q, [[0, 0], [5, 0]])
