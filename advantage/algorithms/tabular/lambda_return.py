"""The offline lambda-return algorithm: TD(lambda)'s forward view (Watkins 1989)."""

from __future__ import annotations

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, followed_policy, greedy_by_table
from advantage.algorithms.tabular.given_policy import given
from advantage.algorithms.tabular.options import EpisodicPredictionOptions
from advantage.algorithms.tabular.state_values import EpisodicState, episodic_init, learn_episodes
from advantage.estimators.returns import lambda_returns
from advantage.types import Array, Key, Rollout, no_memory


@hyperparameters
class OfflineLambdaReturn(EpisodicPredictionOptions):
    """The offline lambda-return algorithm: when an episode has ended, move each state's value towards its return.

        G_t  <- r_t + gamma ((1 - lam) V(s_{t+1}) + lam G_{t+1})     backwards; the last one bootstraps if truncated
        V(s) <- V(s) + alpha sum of (G_t - V(s)) over t with s_t = s

    All targets and errors of an episode use the values before it. Learning happens at the end of each rollout, from
    the episodes that ended in it, one after another in the order of their ends. Parts of them in earlier rollouts are
    included. With lam = 1 it is Monte-Carlo prediction.

    Source: Watkins 1989, "Learning from delayed rewards", section 7; Sutton & Barto 2018, "Reinforcement learning",
    section 12.1.
    """

    lam: float = ranged(0.9, "[0, 1]")
    """Trace decay lambda: 0 is the TD error, 1 the Monte-Carlo return."""

    def __post_init__(self):
        object.__setattr__(self, "policy", given(self.policy))
        check(self)

    init = episodic_init
    initial_memory = no_memory
    actor = followed_policy
    noise = choice_noise
    act = act_by_table
    greedy = greedy_by_table

    def update(
        self, state: EpisodicState, rollout: Rollout, key: Key
    ) -> tuple[EpisodicState, dict[str, Array]]:
        """Learn from the episodes that ended: `-> state, metrics`."""

        def returns(reward: Array, discount: Array, next_value: Array) -> Array:
            return lambda_returns(reward, discount, next_value, jnp.full_like(reward, self.lam))

        return learn_episodes(self, state, rollout, returns)
