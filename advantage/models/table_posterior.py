"""What is known of a finite world from counts: Dirichlet distributions over its table."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.types import Array, Key


class Table(NamedTuple):
    """A table of transitions: probabilities `[S, A, S + 1]`, the last column for the end, and mean rewards `[S, A]`."""

    probability: Array
    reward: Array


class TablePosterior(NamedTuple):
    """The posterior of the table of a finite world, each state and action by itself.

        p(. | s, a) ~ Dirichlet(alpha + n(s, a, .))
        r(s, a)     ~ Normal(R(s, a) / (1 + N(s, a)), sigma^2 / (1 + N(s, a)))

    n are counts of successors, N their sum, R the sum of the rewards. Before any step, p has equal means, and r has
    mean 0 and standard deviation sigma, which is also that of a single reward.

    Attributes:
        count: n, int32 `[S, A, S + 1]`; the last column counts ends.
        total_reward: R, float32 `[S, A]`.
        prior_count: the sum of alpha over successors, above 0.
        reward_std: sigma, at least 0, in units of reward.

    Source: Dearden, Friedman & Andre 1999, "Model based Bayesian exploration"; Gelman et al. 2013, "Bayesian data
    analysis", sections 2.5 and 3.4.
    """

    count: Array
    total_reward: Array
    prior_count: Array | float = 1.0
    reward_std: Array | float = 1.0

    def observed(self, s: Array, a: Array, reward: Array, successor: Array) -> TablePosterior:
        """The posterior after more steps, `[N]`; the successor is S where the step terminated."""
        return self._replace(
            count=self.count.at[s, a, successor].add(1), total_reward=self.total_reward.at[s, a].add(reward)
        )

    @property
    def concentration(self) -> Array:
        """`alpha + n`, `[S, A, S + 1]`."""
        return self.count + self.prior_count / self.count.shape[-1]

    def mean(self) -> Table:
        """The expected table: `(alpha_k + n_k) / (alpha_0 + N)`."""
        concentration = self.concentration
        probability = concentration / concentration.sum(-1, keepdims=True)
        return Table(probability, self.total_reward / (1 + self.count.sum(-1)))

    def covariance(self) -> Array:
        """Of the probabilities of two successors of one pair, `[S, A, S + 1, S + 1]`: `(d_ij m_i - m_i m_j) / (c + 1)`.

        m is the mean, c the sum of the concentrations, d_ij 1 for i = j and else 0.
        """
        m = self.mean().probability
        outer = m[..., :, None] * m[..., None, :]
        return (m[..., None] * jnp.eye(m.shape[-1]) - outer) / (
            1 + self.concentration.sum(-1)[..., None, None]
        )

    def draw(self, key: Key) -> Table:
        """A table from the posterior."""
        key_probability, key_reward = jax.random.split(key)
        std = self.reward_std / jnp.sqrt(1 + self.count.sum(-1))
        reward = self.mean().reward + std * jax.random.normal(key_reward, self.total_reward.shape)
        return Table(jax.random.dirichlet(key_probability, self.concentration), reward)

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Credible intervals of single probabilities: `-> lowest, highest`, float64 `[S, A, S + 1]`.

        Each probability lies below its interval, and above it, with probability `(1 - level) / 2`. Alone it has the
        distribution `Beta(c_k, c - c_k)`.

        Raises:
            ValueError: a level that is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level={level} is not allowed; use a number between 0 and 1, such as 0.9.")
        from scipy.special import betaincinv  # slow to import, seldom needed

        concentration = np.asarray(self.concentration, np.float64)
        rest = concentration.sum(-1, keepdims=True) - concentration
        low, high = ((1 - level) / 2, (1 + level) / 2)
        return betaincinv(concentration, rest, low), betaincinv(concentration, rest, high)


def table_posterior(
    n_states: int, n_actions: int, *, prior_count: Array | float = 1.0, reward_std: Array | float = 1.0
) -> TablePosterior:
    """The posterior before the first step. Arguments as in `TablePosterior`."""
    count = jnp.zeros((n_states, n_actions, n_states + 1), jnp.int32)
    return TablePosterior(count, jnp.zeros((n_states, n_actions)), prior_count, reward_std)
