"""A linear-quadratic problem with a Gaussian policy: score-function and pathwise estimators and the exact gradient."""

from __future__ import annotations

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from advantage.estimators.returns import discounted_returns
from advantage.laboratory.estimate_quality import Measured, measured
from advantage.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """`s' = A s + B a + noise w`, `r = -(s^T s + penalty a^T a)`, `a = K s + exp(log_std) e`; w and e standard normal.

    theta is K, `[m, n]`, and log_std, `[m]`. Episodes have `horizon` steps and start at `s_0 ~ N(0, I)`.

    Attributes:
        a, b: `[n, n]` and `[n, m]`.
        gain, log_std: theta.
        noise, penalty, gamma, horizon: as above; the discount.
    """

    a: np.ndarray
    b: np.ndarray
    gain: np.ndarray
    log_std: np.ndarray
    noise: float = 0.1
    penalty: float = 0.1
    gamma: float = 0.95
    horizon: int = 20

    @property
    def theta(self) -> Array:
        """K and log_std as one vector, `[m n + m]`."""
        return jnp.concatenate([jnp.ravel(jnp.asarray(self.gain)), jnp.asarray(self.log_std)])

    def parts(self, theta: Array) -> tuple[Array, Array]:
        """`theta -> K, log_std`."""
        m, n = np.shape(self.gain)
        return theta[: m * n].reshape(m, n), theta[m * n :]

    def performance(self, theta: Array) -> Array:
        """`J(theta)`, exactly, from the second moments `S_t = E[s_t s_t^T]`.

            S_{t+1} = (A + B K) S_t (A + B K)^T + B diag(std^2) B^T + noise^2 I
            J       = -Σ_t gamma^t (tr S_t + penalty (tr K S_t K^T + Σ std^2))

        Source: Anderson & Moore 1990, "Optimal control: linear quadratic methods", section 2.4, for a fixed gain.
        """
        gain, log_std = self.parts(theta)
        variance = jnp.exp(2 * log_std)
        closed, moments, total = self.a + self.b @ gain, jnp.eye(len(self.a), dtype=theta.dtype), 0.0
        added = self.b @ jnp.diag(variance) @ self.b.T + self.noise**2 * jnp.eye(len(self.a))
        for t in range(self.horizon):
            cost = jnp.trace(moments) + self.penalty * (jnp.trace(gain @ moments @ gain.T) + variance.sum())
            total -= self.gamma**t * cost
            moments = closed @ moments @ closed.T + added
        return total

    def roll(self, theta: Array, key: Key) -> tuple[Array, Array, Array]:
        """One episode as a function of theta: `-> s [T, n], a [T, m], r [T]`."""
        key_start, key_noise, key_action = jax.random.split(key, 3)
        (m, n), (gain, log_std) = np.shape(self.gain), self.parts(theta)
        w, e = (
            jax.random.normal(key_noise, (self.horizon, n)),
            jax.random.normal(key_action, (self.horizon, m)),
        )

        def step(s, noise):
            w, e = noise
            action = gain @ s + jnp.exp(log_std) * e
            reward = -(s @ s + self.penalty * action @ action)
            return self.a @ s + self.b @ action + self.noise * w, (s, action, reward)

        return jax.lax.scan(step, jax.random.normal(key_start, (n,)), (w, e))[1]

    def pathwise(self, theta: Array, key: Key) -> Array:
        """`∇ Σ_t gamma^t r_t` by differentiating one episode through its noise, `[P]`.

        Source: Heess et al. 2015, "Learning continuous control policies by stochastic value gradients", section 3.
        """
        weight = self.gamma ** jnp.arange(self.horizon)
        return jax.grad(lambda theta: (weight * self.roll(theta, key)[2]).sum())(theta)

    def score_function(self, theta: Array, key: Key, baseline: bool) -> Array:
        """`Σ_t gamma^t (G_t - b(s_t)) ∇log pi(a_t | s_t)` of one episode, `[P]`, with the exact V as b, or 0.

        Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement
        learning", theorem 1.
        """
        states, actions, reward = jax.lax.stop_gradient(self.roll(theta, key))
        returns = discounted_returns(
            reward, jnp.full_like(reward, self.gamma).at[-1].set(0), jnp.zeros_like(reward)
        )
        weight = self.gamma ** jnp.arange(self.horizon) * (returns - baseline * self._value(theta, states))

        def weighted(theta):
            gain, log_std = self.parts(theta)
            error = (actions - states @ gain.T) * jnp.exp(-log_std)
            return (weight * (-(error**2) / 2 - log_std).sum(-1)).sum()

        return jax.grad(weighted)(theta)

    def _value(self, theta: Array, states: Array) -> Array:
        """`V_t(s_t) = -(s^T P_t s + c_t)`, `[T]`."""
        gain, log_std = self.parts(theta)
        closed, variance = self.a + self.b @ gain, jnp.exp(2 * log_std)
        cost = jnp.eye(len(self.a)) + self.penalty * gain.T @ gain
        matrix, rest, rows = jnp.zeros_like(cost), jnp.zeros(()), []
        for _ in range(self.horizon):
            drawn = (variance * jnp.diag(self.b.T @ matrix @ self.b)).sum() + self.noise**2 * jnp.trace(
                matrix
            )
            rest = self.penalty * variance.sum() + self.gamma * (rest + drawn)
            matrix = cost + self.gamma * closed.T @ matrix @ closed
            rows.append((matrix, rest))
        values = [-(s @ p @ s + c) for s, (p, c) in zip(states, reversed(rows), strict=True)]
        return jnp.stack(values)


def example() -> Quadratic:
    """A point mass with position and velocity that is pushed towards the origin."""
    a, b = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[0.0], [0.1]])
    return Quadratic(a, b, np.array([[-1.0, -1.5]]), np.array([-1.0]))


def measure_quadratic(world: Quadratic, size: int, seed: int = 0) -> dict[str, Measured]:
    """Three estimators of `∇J` from `size` episodes each."""
    with jax.enable_x64(True):
        theta = jnp.asarray(world.theta, jnp.float64)
        truth, keys = (
            np.asarray(jax.grad(world.performance)(theta)),
            jax.random.split(jax.random.key(seed), size),
        )
        found = {}
        for name, one in {
            "score function": lambda key: world.score_function(theta, key, False),
            "score function - V": lambda key: world.score_function(theta, key, True),
            "pathwise": lambda key: world.pathwise(theta, key),
        }.items():
            compiled = jax.jit(jax.vmap(one))
            samples = np.asarray(compiled(keys))
            begin = time.perf_counter()
            jax.block_until_ready(compiled(keys))
            cost = (time.perf_counter() - begin) / size * 1e6
            found[name] = measured(samples, truth, cost=cost)
    return found
