"""A linear-quadratic world with its exact policy gradient, and sets of points whose moments are exact."""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from gymnasium import spaces
from scipy.linalg import block_diag, solve_discrete_lyapunov

from advantage.algorithms.value.shared.gradient_steps import Learning, adam_init
from advantage.policies.actor_critic import actor_critic


@dataclasses.dataclass(frozen=True, eq=False)
class LinearQuadratic:
    """`s' = A s + B a + C xi`, cost `s^T M s + a^T R a`, and the policy `a = -K s + D eta`, with C and D diagonal.

    Noises xi and eta are standard normal; starts have mean 0 and second moments `first`; the discount is gamma.
    """

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    M: np.ndarray
    R: np.ndarray
    gain: np.ndarray
    std: np.ndarray
    first: np.ndarray
    gamma: float = 0.9

    @property
    def closed(self):
        """`A - B K`."""
        return self.A - self.B @ self.gain

    @functools.cached_property
    def P(self):
        """`P = M + K^T R K + gamma (A - B K)^T P (A - B K)`: the value is `-s^T P s` and a constant."""
        root = np.sqrt(self.gamma) * self.closed
        return solve_discrete_lyapunov(root.T, self.M + self.gain.T @ self.R @ self.gain)

    @property
    def cost(self):
        """The expected discounted cost."""
        spread = self.std[:, None] * np.eye(len(self.std)) * self.std
        noise = self.B @ spread @ self.B.T + self.C @ self.C.T
        constant = np.trace(self.R @ spread) + self.gamma * np.trace(self.P @ noise)
        return np.trace(self.P @ self.first) + constant / (1 - self.gamma)

    @functools.cached_property
    def states(self):
        """`Sigma = Σ_t gamma^t E[s_t s_t^T]`."""
        spread = self.B @ (self.std[:, None] ** 2 * self.B.T) + self.C @ self.C.T
        started = self.first + self.gamma / (1 - self.gamma) * spread
        return solve_discrete_lyapunov(np.sqrt(self.gamma) * self.closed, started)

    @property
    def gradient(self):
        """Of the cost in K: `2 ((R + gamma B^T P B) K - gamma B^T P A) Sigma`.

        Source: Fazel et al. 2018, "Global convergence of policy gradient methods for the linear quadratic regulator",
        lemma 1, here discounted and with noise.
        """
        slope = (self.R + self.gamma * self.B.T @ self.P @ self.B) @ self.gain
        return 2 * (slope - self.gamma * self.B.T @ self.P @ self.A) @ self.states

    @property
    def gradient_of_std(self):
        """Of the cost in the diagonal of D: `2 D diag(R + gamma B^T P B) / (1 - gamma)`."""
        return 2 * self.std * np.diag(self.R + self.gamma * self.B.T @ self.P @ self.B) / (1 - self.gamma)

    @property
    def H(self):
        """The action value is `-(s, a)^T H (s, a)` and a constant."""
        effect = np.hstack([self.A, self.B])
        return block_diag(self.M, self.R) + self.gamma * effect.T @ self.P @ effect


def linear_quadratic(std=(0.0, 0.0), noise=0.0):
    """A world with three states and two actions, whose policy is stable."""
    rng, n = np.random.default_rng(0), 3
    a, b = 0.4 * rng.normal(size=(n, n)), rng.normal(size=(n, 2))
    m, first = (root @ root.T + np.eye(n) for root in rng.normal(size=(2, n, n)))
    r, gain = np.array([[2.0, 0.3], [0.3, 1.0]]), 0.1 * rng.normal(size=(2, n))
    return LinearQuadratic(a, b, noise * np.diag([1.0, 0.5, 2.0]), m, r, gain, np.asarray(std), first)


def numeric_gradient(world, field):
    """The gradient of the cost in a field, by central differences."""
    at = getattr(world, field)
    numeric, step = np.zeros_like(at), 1e-6
    for place in np.ndindex(at.shape):
        small = np.zeros_like(at)
        small[place] = step
        above, below = (dataclasses.replace(world, **{field: at + move}).cost for move in (small, -small))
        numeric[place] = (above - below) / (2 * step)
    return numeric


def points(*covariances):
    """Points of independent vectors, one for each covariance, `[N, d]` each: first and second moments are exact.

    All odd moments are 0 and vectors are uncorrelated.
    """
    sets = []
    for covariance in covariances:
        size = len(covariance)
        root = np.sqrt(size) * np.linalg.cholesky(covariance)
        sets.append(np.concatenate([root.T, -root.T]))
    return [np.array(rows) for rows in zip(*itertools.product(*sets), strict=True)]


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """A network without parameters: `x -> (x, all products of two of its numbers)`."""

    def init(self, key, x):
        return ()

    def apply(self, params, x):
        products = x[..., :, None] * x[..., None, :]
        return jnp.concatenate([x, products.reshape(*x.shape[:-1], -1)], axis=-1)


def truth(world):
    """The policy of a world, and parameters with which all networks are exact, up to the constant of values."""
    n, k = world.B.shape
    policy = actor_critic(
        spaces.Box(-np.inf, np.inf, (n,), np.float32),
        spaces.Box(-np.inf, np.inf, (k,), np.float32),
        Quadratic(),
        shared=False,
        bounds="clip",
        spread="state-independent",
        initialisation="orthogonal",
    )

    def network(first, second, bias):
        weight = np.concatenate([first, np.broadcast_to(second, (len(first) ** 2, first.shape[1]))])
        return {"network": (), "head": {"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)}}

    def of_square(matrix):
        return network(np.zeros((len(matrix), 1)), -matrix.reshape(-1, 1), np.zeros(1))

    with np.errstate(divide="ignore"):
        log_std, log_noise = np.log(world.std), np.log(np.diag(world.C))
    change = np.vstack([(world.A - np.eye(n)).T, world.B.T])
    return policy, {
        "actor": network(-world.gain.T, 0.0, np.zeros(k)) | {"log_std": jnp.asarray(log_std)},
        "critic": of_square(world.P),
        "action_value": of_square(world.H),
        "reward": of_square(block_diag(world.M, world.R)),
        "model": network(np.hstack([change, np.zeros_like(change)]), 0.0, np.append(np.zeros(n), log_noise)),
    }


def learning_of(params, target):
    """What a gradient step updates, before the first one."""
    optimiser = {name: adam_init(part) for name, part in params.items()}
    return Learning(params, optimiser, target, jnp.uint32(0))


def ascent_of(learning):
    """The gradient up which the actor went in its first step of Adam: its first moment is a tenth of it."""
    states = jax.tree.leaves(
        learning.optimiser["actor"], is_leaf=lambda leaf: isinstance(leaf, optax.ScaleByAdamState)
    )
    (adam,) = (state for state in states if isinstance(state, optax.ScaleByAdamState))
    return jax.tree.map(lambda leaf: -np.asarray(leaf) / 0.1, adam.mu)


def assert_exact(ascent, world):
    """An ascent of the mean value at states with second moments Sigma is the descent of the world's cost.

    Sigma weighs time t by gamma^t, and these weights sum to 1 / (1 - gamma); the mean over its points has the sum 1. So
    the gradient of the standard deviation is (1 - gamma) times the true one.
    """
    head, atol = ascent["head"], 1e-6 * abs(world.gradient).max()  # critics take actions in float32
    np.testing.assert_allclose(head["weight"][: len(world.A)].T, world.gradient, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(head["bias"], 0, atol=atol)
    if world.std.any():
        of_log_std = -world.std * world.gradient_of_std * (1 - world.gamma)
        np.testing.assert_allclose(ascent["log_std"], of_log_std, rtol=1e-5)
