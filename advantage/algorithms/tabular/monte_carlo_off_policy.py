"""Monte-Carlo prediction of one policy from episodes of another."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, greedy_by_table
from advantage.algorithms.tabular.given_policy import Follow, PolicyTable, follow, given, probabilities
from advantage.algorithms.tabular.importance import move_by_weight, ratios_to_the_end
from advantage.algorithms.tabular.options import EpisodeOptions
from advantage.algorithms.tabular.table import sizes_of
from advantage.algorithms.tabular.whole_episodes import (
    Pending,
    Steps,
    each_episode,
    first_visits,
    pending_init,
    steps_of,
)
from advantage.estimators.returns import discounted_returns
from advantage.types import Array, Clock, Key, Rollout, Spec, no_memory


class MonteCarloOffPolicyState(NamedTuple):
    """The training state: b, the ratios `pi / b` `[S, A]`, tables `[S]`, unfinished episodes and the clock."""

    behaviour: Follow
    ratio: Array
    v: Array
    total: Array
    pending: Pending
    clock: Clock


@hyperparameters
class MonteCarloOffPolicy(EpisodeOptions):
    """Off-policy Monte-Carlo prediction: learn the values of a policy pi from the returns of another policy b.

    When an episode has ended, with the sums over all visits t of s in all episodes so far:

        G_t    <- r_t + gamma G_{t+1}                              backwards; the last one bootstraps if truncated
        rho_t  <- prod_{k >= t} pi(a_k | s_k) / b(a_k | s_k)
        V(s)   <- sum rho_t G_t / (number of visits)               ordinary: unbiased, its variance may be infinite
                  sum rho_t G_t / sum rho_t                        weighted: biased at first, far less variable

    b must take every action that pi may take. Learning happens at the end of each rollout, from the episodes that
    ended in it. Parts of them in earlier rollouts are included.

    Source: Sutton & Barto 2018, "Reinforcement learning", eq. 5.5 and 5.6.
    """

    importance: Literal["ordinary", "weighted"] = "weighted"
    """What the sum of weighted returns is divided by: the number of visits, or the sum of weights."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    visits: Literal["first", "every"] = "first"
    """Which visits of a state in an episode count."""
    largest_ratio: float = ranged(1e6, "[1, inf)")
    """Ratios rho are cut here."""
    initial_value: float = ranged(0.0, "(-inf, inf)")
    """V(s) before its first visit."""
    policy: PolicyTable = None
    """pi: probabilities [S, A], or an action for each state [S]: a table, or the name of a .json or .npy file with one.
    Observations of several parts are numbered like digits, the last part fastest. None is uniformly random."""
    behaviour: PolicyTable = None
    """b: like `policy`."""

    def __post_init__(self):
        object.__setattr__(self, "policy", given(self.policy))
        object.__setattr__(self, "behaviour", given(self.behaviour))
        check(self)

    def init(self, key: Key, spec: Spec) -> MonteCarloOffPolicyState:
        """The initial training state.

        Raises:
            ValueError: spaces that are not finite, an action mask, a policy that does not fit, or an action of pi that
                b never takes.
        """
        sizes = sizes_of(spec)
        if sizes.has_mask:
            raise ValueError(
                "monte-carlo-off-policy weights returns by two tables of probabilities, and action masks would change "
                "both; use the environment without its masks, or use monte-carlo-prediction."
            )
        b, pi = probabilities(self.behaviour, sizes), probabilities(self.policy, sizes)
        for s, a in np.argwhere((pi > 0) & (b == 0))[:1].tolist():
            raise ValueError(
                f"policy takes action {a} in state {s} but behaviour never does, so nothing can be learned about it; "
                "give a behaviour with some probability for every action of policy."
            )
        return MonteCarloOffPolicyState(
            follow(self.behaviour, sizes),
            jnp.asarray(pi / np.where(b > 0, b, 1), jnp.float32),
            jnp.full(sizes.n_states, self.initial_value, jnp.float32),
            jnp.zeros(sizes.n_states, jnp.float32),
            pending_init(self.max_episode, spec.num_envs),
            clock_init(spec.total_timesteps),
        )

    initial_memory = no_memory

    def actor(self, state: MonteCarloOffPolicyState) -> Follow:
        """The behaviour."""
        return state.behaviour

    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(
        self, state: MonteCarloOffPolicyState, rollout: Rollout, key: Key
    ) -> tuple[MonteCarloOffPolicyState, dict[str, Array]]:
        """Learn from the episodes that ended: `-> state, metrics`."""

        def learn(carry, episode: Steps, here: Array):
            v, total, error = carry
            discount = self.gamma * (1 - episode.terminated)
            earned = discounted_returns(episode.reward, discount, v[episode.next_state])
            ratio = jnp.where(here, state.ratio[episode.state, episode.action], 1)
            rho = ratios_to_the_end(ratio, self.largest_ratio)
            counts = first_visits(episode.state, here, v.shape[0]) if self.visits == "first" else here
            ordinary = self.importance == "ordinary"
            v, total, missed = move_by_weight(
                v,
                total,
                episode.state,
                target=rho * earned if ordinary else earned,
                weight=1.0 * counts if ordinary else rho * counts,
                learning_rate=1.0,
                power=1.0,
            )
            return v, total, error + missed

        steps, carry = steps_of(state.behaviour.sizes, rollout), (state.v, state.total, jnp.zeros(()))
        carry, pending, counts = each_episode(learn, carry, state.pending, steps, rollout.truncated)
        v, total, error = carry
        clock = advance_clock(state.clock, rollout.reward.size)
        learned = state._replace(v=v, total=total, pending=pending, clock=clock)
        return learned, {"return_error": error / jnp.maximum(counts["episodes"], 1)} | counts
