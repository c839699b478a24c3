"""Fitted Q evaluation with a network: the action values of a given policy from recorded steps."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.algorithms.value.shared.gradient_steps import adam_init, adam_step
from advantage.objectives.surrogates import squared_error
from advantage.policies.actor_critic import choose_network, feed_forward
from advantage.policies.encoder import encoder
from advantage.policies.q_network import QNetwork
from advantage.running_moments import Normaliser, moments_init, moments_update, normaliser
from advantage.types import Array, Key, Pytree

HIDDEN = (64, 64)
LEARNING_RATE = 1e-3
BATCH = 256  # steps in a gradient step
GRADIENT_STEPS = 50  # in each iteration, or more if that is few in all:
LEAST_STEPS = 2000
LIMIT = 10.0  # standard deviations of an observation


class RecordedSteps(NamedTuple):
    """N steps over Discrete actions, and the policy that is judged.

    Attributes:
        obs: `[M, ...]`, all observations.
        row, next_row: int `[N]`, the rows of those before and after each step.
        action: int `[N]`, counted from 0.
        reward: `[N]`.
        goes_on: `[N]`, 0 where the task ended, else 1.
        policy: `pi(. | s)` of every observation, `[M, A]`.
    """

    obs: Pytree
    row: Array
    next_row: Array
    action: Array
    reward: Array
    goes_on: Array
    policy: Array


def fitted_q_network(
    space: gymnasium.Space, steps: RecordedSteps, key: Key, *, gamma: float, iterations: int
) -> np.ndarray:
    """`Q(s, .)` of every observation, float64 `[M, A]`.

    In each iteration, with Q' a copy of Q at its beginning:

        Q <- Adam on mean (Q(s, a) - r - gamma (1 - terminated) Σ_b pi(b | s') Q'(s', b))² / 2

    As with `fitted_q_table`, k iterations from `Q = 0` give the value of k steps. Rewards are divided by the largest
    return while it is fitted, and observations are normalised.

    Args:
        space: the observation space.
        steps: the data.
        key: draws the weights and the batches.
        gamma: discount per step, in [0, 1].
        iterations: 1 or more.

    Source: Le, Voloshin & Yue 2019, "Batch policy learning under constraints", algorithm 3.
    """
    encode = encoder(space)
    network = QNetwork(
        feed_forward(choose_network(None, space, HIDDEN, "relu", "orthogonal")), steps.policy.shape[1]
    )
    scale = float(np.abs(steps.reward).max()) * min(iterations, 1 / max(1 - gamma, 1e-9)) or 1.0
    normalise = None
    if encode.num_continuous:
        seen = jnp.asarray(encode.continuous(steps.obs))
        normalise = normaliser(moments_update(moments_init((encode.num_continuous,)), seen), LIMIT)
    scaled = jax.tree.map(jnp.asarray, steps._replace(reward=np.asarray(steps.reward / scale, np.float32)))
    each = max(GRADIENT_STEPS, LEAST_STEPS // iterations)
    q = _fit(network, encode, normalise, scaled, key, gamma, iterations, each)
    return scale * np.asarray(q, np.float64)


@partial(jax.jit, static_argnames=("encode",))
def _fit(
    network: QNetwork,
    encode: Any,
    normalise: Normaliser | None,
    steps: RecordedSteps,
    key: Key,
    gamma: float,
    iterations: int,
    each: int,
) -> Array:
    key_network, key_steps = jax.random.split(key)

    def values(params: Pytree, rows: Array) -> Array:
        obs = jax.tree.map(lambda leaf: leaf[rows], steps.obs)
        return network.outputs(params, encode.policy_input(obs, normalise))[..., 0]

    def expected(params: Pytree, rows: Array) -> Array:
        return (steps.policy[rows] * values(params, rows)).sum(-1)

    def iteration(n: Array, carry: Any) -> Any:
        params, optimiser = carry
        before = params

        def step(i: Array, carry: Any) -> Any:
            params, optimiser = carry
            key_batch = jax.random.fold_in(key_steps, n * each + i)
            drawn = jax.random.randint(key_batch, (BATCH,), 0, len(steps.reward))
            following = jnp.where(n > 0, expected(before, steps.next_row[drawn]), 0.0)  # Q = 0 at first
            y = steps.reward[drawn] + gamma * steps.goes_on[drawn] * following

            def loss(params: Pytree) -> tuple[Array, None]:
                q = jnp.take_along_axis(values(params, steps.row[drawn]), steps.action[drawn][:, None], -1)
                return squared_error(q[:, 0], y).mean(), None

            params, optimiser, _ = adam_step(loss, params, optimiser, LEARNING_RATE)
            return params, optimiser

        return jax.lax.fori_loop(0, each, step, (params, optimiser))

    params = network.init(key_network, encode.encode(encode.example()))
    params, _ = jax.lax.fori_loop(0, iterations, iteration, (params, adam_init(params)))
    rows = jnp.arange(len(steps.policy))
    return (
        jax.lax.map(partial(values, params), rows, batch_size=4096)
        if len(rows) > 4096
        else values(params, rows)
    )
