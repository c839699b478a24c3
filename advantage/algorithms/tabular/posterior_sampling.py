"""Posterior sampling: act by the best policy of a world that may be the true one (Strens 2000)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.algorithms.tabular.acting import EpsilonGreedy, choice_noise
from advantage.algorithms.tabular.action_values import ActionValues, action_values, allowed_values, with_masks
from advantage.machine import refuse_large
from advantage.models.table_posterior import Table, TablePosterior, table_posterior
from advantage.types import Array, Clock, Key, Pytree, Rollout, Spec, no_memory


class PosteriorState(NamedTuple):
    """The training state.

    Attributes:
        table: the action values of the mean table, which evaluation follows.
        drawn: the action values of the table that was drawn last, `[S, A]`, which training follows.
        posterior: of the world's table.
        clock: the share of the budget spent.
    """

    table: ActionValues
    drawn: Array
    posterior: TablePosterior
    clock: Clock


class PosteriorActor(NamedTuple):
    """An actor: the best policy of the drawn table, for training, and `usual`, that of the mean, for evaluation."""

    drawn: EpsilonGreedy
    usual: EpsilonGreedy


@hyperparameters
class PosteriorSampling:
    """Posterior sampling for reinforcement learning (PSRL), also called Thompson sampling.

    After every n_steps in each environment:

        n(s, a, s'), R(s, a)  <- counts of successors and sums of rewards, with the new steps
        p(. | s, a)           ~  Dirichlet(prior_count / (S + 1) + n(s, a, .))
        r(s, a)               ~  Normal(R / (1 + N), reward_std^2 / (1 + N))         N = sum of n(s, a, .)
        sweeps times:  Q(s, a) <- r(s, a) + gamma sum_s' p(s' | s, a) max_a' Q(s', a')

    and until the next time the agent does argmax_a Q(s, a). A world that was drawn is optimistic where little is
    known, so that the agent goes there. Evaluation follows the best policy of the mean of the posterior instead.

    The paper draws when an episode begins; here environments share a posterior, and a draw lasts for n_steps.

    Source: Strens 2000, "A Bayesian framework for reinforcement learning"; Osband, Russo & Van Roy 2013, "(More)
    efficient reinforcement learning via posterior sampling", algorithm 1.
    """

    n_steps: int = ranged(20, "[1, inf)")
    """Steps taken in each environment between two draws."""
    gamma: float = ranged(0.99, "[0, 1)")
    """Discount per step."""
    prior_count: float = ranged(1.0, "(0, inf)")
    """How many observed steps the prior of each state and action counts as."""
    reward_std: float = ranged(1.0, "[0, inf)")
    """Standard deviation of the mean reward of a pair before it was tried, in units of reward; 0 trusts what it saw."""
    sweeps: int = ranged(200, "[1, inf)")
    """Sweeps of value iteration over a drawn table; each draw begins with the last one's values."""

    def init(self, key: Key, spec: Spec) -> PosteriorState:
        """The initial training state. Raises ValueError for spaces that are not finite, or too large a posterior."""
        table = action_values(spec, 0.0)
        n_states, n_actions = table.q.shape
        what = f"Counts of the successors of {n_states:_} states and {n_actions} actions, and a table that is drawn"
        refuse_large(
            what, 12 * n_states * n_actions * (n_states + 1), "use q-learning, or dyna with --model last"
        )
        posterior = table_posterior(
            n_states, n_actions, prior_count=self.prior_count, reward_std=self.reward_std
        )
        posterior = jax.tree.map(jnp.asarray, posterior)
        drawn = self._solved(posterior.draw(key), table.q, table.allowed)
        return PosteriorState(table, drawn, posterior, clock_init(spec.total_timesteps))

    initial_memory = no_memory
    noise = choice_noise

    def actor(self, state: PosteriorState) -> PosteriorActor:
        """The values of the drawn table and of the mean."""
        usual = EpsilonGreedy(state.table.sizes, state.table.q, 0.0, state.table.allowed)
        return PosteriorActor(usual._replace(q=state.drawn), usual)

    def act(
        self, actor: PosteriorActor, obs: Pytree, memory: Pytree, noise: Array
    ) -> tuple[Array, Pytree, Pytree]:
        """What is best in the drawn table: `-> action, memory, extras`."""
        return actor.drawn.sample(obs, noise), memory, ()

    def greedy(self, actor: PosteriorActor, obs: Pytree, memory: Pytree) -> tuple[Array, Pytree]:
        """What is best by the mean of the posterior: `-> action, memory`."""
        return actor.usual.best(obs), memory

    def update(
        self, state: PosteriorState, rollout: Rollout, key: Key
    ) -> tuple[PosteriorState, dict[str, Array]]:
        """Count the steps, draw a table and solve it: `-> state, metrics`."""
        table = with_masks(state.table, rollout)
        index = table.sizes.index
        s, a, r = index(rollout.obs), rollout.action, rollout.reward.astype(jnp.float32)
        successor = jnp.where(rollout.terminated, table.sizes.n_states, index(rollout.next_obs))
        posterior = state.posterior.observed(s, a, r, successor)
        drawn = self._solved(posterior.draw(key), state.drawn, table.allowed)
        q = self._solved(posterior.mean(), table.q, table.allowed)
        visits = posterior.count.sum(-1)
        metrics = {"drawn_value": _value(drawn, table.allowed)[s].mean(), "tried": (visits > 0).mean()}
        clock = advance_clock(state.clock, r.size)
        return PosteriorState(table._replace(q=q, visits=visits), drawn, posterior, clock), metrics

    def _solved(self, table: Table, q: Array, allowed: Array | None) -> Array:
        """Sweeps of value iteration, from `q` on; the value of the end is 0."""
        probability = table.probability[..., :-1]

        def sweep(_: Array, q: Array) -> Array:
            return table.reward + self.gamma * probability @ _value(q, allowed)

        return jax.lax.fori_loop(0, self.sweeps, sweep, q)


def _value(q: Array, allowed: Array | None) -> Array:
    """`max_a Q(s, a)` over the actions that are allowed, `[S]`."""
    return allowed_values(q, allowed).max(-1)
