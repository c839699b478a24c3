"""Thompson sampling (Thompson 1933)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.bandits.arms import Arms, arms_of, for_each, pulled
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.types import Array, Key, Pytree, Rollout, Spec, no_memory

PROPOSALS = 6  # all are rejected at most once in 10^8 draws, which is finer than float32 in [0, 1)


class Beta(NamedTuple):
    """A posterior for each arm, `[A]`: Beta(alpha, beta), both 1 or more."""

    alpha: Array
    beta: Array

    @property
    def mean(self) -> Array:
        return self.alpha / (self.alpha + self.beta)

    def noise(self, key: Key, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Normal and exponential numbers `[*shape, A, 2, PROPOSALS]`."""
        key_normal, key_exponential = jax.random.split(key)
        size = *shape, *self.alpha.shape, 2, PROPOSALS
        return jax.random.normal(key_normal, size), jax.random.exponential(key_exponential, size)

    def sample(self, noise: tuple[Array, Array]) -> Array:
        """`X / (X + Y)` with X from Gamma(alpha) and Y from Gamma(beta): `[..., A]`."""
        gammas = gamma_sample(jnp.stack([self.alpha, self.beta], -1), *noise)
        return gammas[..., 0] / gammas.sum(-1)


class Normal(NamedTuple):
    """A posterior for each arm, `[A]`: N(mean, std²)."""

    mean: Array
    std: Array

    def noise(self, key: Key, shape: tuple[int, ...]) -> Array:
        """Standard normal numbers `[*shape, A]`."""
        return jax.random.normal(key, (*shape, *self.mean.shape))

    def sample(self, noise: Array) -> Array:
        return self.mean + self.std * noise


def gamma_sample(alpha: Array, normal: Array, exponential: Array) -> Array:
    """A gamma variate of unit scale as a function of random numbers, by rejection: the first accepted proposal.

    Args:
        alpha: the shape parameter, 1 or more, `[...]`.
        normal, exponential: standard normal and standard exponential numbers for K proposals, `[..., K]`.

    Source: Marsaglia & Tsang 2000, "A simple method for generating gamma variables", section 4.
    """
    d = alpha[..., None] - 1 / 3
    v = (1 + normal / jnp.sqrt(9 * d)) ** 3
    log_v = jnp.log(jnp.maximum(v, 1e-30))
    accepted = (v > 0) & (-exponential < normal**2 / 2 + d * (1 - v + log_v))
    first = accepted.argmax(-1)[..., None]
    return jnp.take_along_axis(d * v, first, -1)[..., 0]


@hyperparameters
class Thompson:
    """Thompson sampling: pull each arm with the posterior probability that it is the best.

        q(a)  ~  the posterior of the mean of a, for each arm
        a     <- argmax_a q(a)

    Bernoulli rewards, which are 0 or 1: the prior is Beta(1, 1), and after k ones among n rewards the posterior is
    Beta(1 + k, 1 + n - k). Gaussian rewards, whose standard deviation is known to be `reward_std`: the prior is
    N(prior_mean, prior_std²), and the posterior has

        precision  =  1 / prior_std² + n / reward_std²
        mean       =  (prior_mean / prior_std² + n Q(a) / reward_std²) / precision

    with Q(a) the mean of the n rewards. Parallel environments share the posterior, and each draws from it
    independently.

    Source: Thompson 1933, "On the likelihood that one unknown probability exceeds another in view of the evidence of
    two samples"; Chapelle & Li 2011, "An empirical evaluation of Thompson sampling", algorithm 2; Russo et al. 2018,
    "A tutorial on Thompson sampling", algorithm 3.2.
    """

    rewards: Literal["bernoulli", "gaussian"] = "gaussian"
    """Distribution of the rewards; with bernoulli, a reward outside [0, 1] stops the run."""
    prior_mean: float = ranged(0.0, "(-inf, inf)")
    """Prior mean of an arm's mean reward, gaussian only."""
    prior_std: float = ranged(1.0, "(0, inf)")
    """Prior standard deviation of an arm's mean reward, gaussian only."""
    reward_std: float = ranged(1.0, "(0, inf)")
    """Standard deviation of a reward around its arm's mean, gaussian only."""

    n_steps = 1

    def init(self, key: Key, spec: Spec) -> Arms:
        """The initial training state. Raises ValueError for spaces that are not a bandit's."""
        return arms_of(spec)

    initial_memory = no_memory

    def actor(self, state: Arms) -> Beta | Normal:
        """The posterior of each arm's mean."""
        total = state.value * state.count
        if self.rewards == "bernoulli":
            return Beta(1 + total, 1 + state.count - total)
        precision = 1 / self.prior_std**2 + state.count / self.reward_std**2
        mean = (self.prior_mean / self.prior_std**2 + total / self.reward_std**2) / precision
        return Normal(mean, 1 / jnp.sqrt(precision))

    def noise(self, actor: Beta | Normal, key: Key, shape: tuple[int, ...]) -> Pytree:
        """The random numbers for `act`."""
        return actor.noise(key, shape)

    def act(
        self, actor: Beta | Normal, obs: Pytree, memory: Pytree, noise: Pytree
    ) -> tuple[Array, Pytree, Pytree]:
        """The best arm for means drawn from the posterior: `-> action, memory, extras`."""
        return actor.sample(noise).argmax(-1).astype(jnp.int32), memory, ()

    def greedy(self, actor: Beta | Normal, obs: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        """The best arm on average: `-> action, memory`."""
        return for_each(obs, actor.mean.argmax()), memory

    def update(self, state: Arms, rollout: Rollout, key: Key) -> tuple[Arms, dict[str, Array]]:
        """One pull in each environment: `-> state, metrics`."""
        learned, metrics = pulled(state, rollout)
        if self.rewards == "bernoulli":
            possible = ((rollout.reward >= 0) & (rollout.reward <= 1)).all()
            metrics["bernoulli_reward"] = jnp.where(possible, metrics["reward"], jnp.nan)
        return learned, metrics
