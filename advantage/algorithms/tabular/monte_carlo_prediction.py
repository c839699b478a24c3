"""Monte-Carlo prediction, first-visit and every-visit."""

from __future__ import annotations

from typing import Literal

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged
from advantage.algorithms.tabular.acting import act_by_table, choice_noise, followed_policy, greedy_by_table
from advantage.algorithms.tabular.given_policy import given
from advantage.algorithms.tabular.options import EpisodicPredictionOptions
from advantage.algorithms.tabular.state_values import EpisodicState, episodic_init, learn_episodes
from advantage.estimators.returns import discounted_returns
from advantage.types import Array, Key, Rollout, no_memory


@hyperparameters
class MonteCarloPrediction(EpisodicPredictionOptions):
    """Monte-Carlo prediction: the value of a state is the mean of the returns that followed it.

    When an episode has ended:

        G_t  <- r_t + gamma G_{t+1}                                  backwards; the last one bootstraps if truncated
        V(s) <- V(s) + alpha(s) sum of (G_t - V(s)) over the visits t of s: the first, or every one

    By default `alpha(s) = 1 / (visits of s)`, which makes the running mean. Means over first visits are unbiased;
    means over every visit converge too. Learning happens at the end of each rollout, from the episodes that ended in
    it, one after another in the order of their ends. Parts of them in earlier rollouts are included.

    Source: Sutton & Barto 2018, "Reinforcement learning", section 5.1 and eq. 6.1; Singh & Sutton 1996, "Reinforcement
    learning with replacing eligibility traces", section 3.
    """

    learning_rate: float | Schedule = ranged(1.0, "[0, 1]")
    """Step size; a number or a schedule of progress."""
    learning_rate_power: float | None = ranged(1.0, "[0, 1]")
    """Divides the step size by the visits of s to this power: 1 makes a running mean; None keeps it."""
    visits: Literal["first", "every"] = "first"
    """Which visits of a state in an episode count."""

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
        return learn_episodes(self, state, rollout, discounted_returns, first_visit=self.visits == "first")
