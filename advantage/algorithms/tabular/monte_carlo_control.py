"""Monte-Carlo control, on-policy and off-policy."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.tabular.acting import EpsilonGreedy, choice_noise, exploring_actor
from advantage.algorithms.tabular.action_values import ActionValues, action_values, with_masks
from advantage.algorithms.tabular.importance import move_by_weight, ratios_to_the_end
from advantage.algorithms.tabular.options import ControlOptions, EpisodeOptions
from advantage.algorithms.tabular.whole_episodes import (
    Pending,
    Steps,
    each_episode,
    first_visits,
    pending_init,
    steps_of,
)
from advantage.estimators.returns import discounted_returns
from advantage.types import Array, Clock, Key, Pytree, Rollout, Spec, no_memory


class MonteCarloControlState(NamedTuple):
    """The training state: action values, the sums of weights `[S, A]`, unfinished episodes and the clock."""

    table: ActionValues
    total: Array
    pending: Pending
    clock: Clock


class ExploringStarts(NamedTuple):
    """An actor: a uniformly random action where an episode begins, bool `starts` `[B]`, and `usual` elsewhere."""

    usual: EpsilonGreedy
    starts: Array


@hyperparameters
class MonteCarloControl(EpisodeOptions, ControlOptions):
    """Monte-Carlo control: the value of an action is the mean of the returns that followed it; act greedily.

    Behaviour b is epsilon-greedy. When an episode has ended:

        G_t      <- r_t + gamma G_{t+1}                               backwards
        rho_t    <- prod_{k > t} pi(a_k | s_k) / b(a_k | s_k)         1 on-policy
        Q(s, a)  <- Q(s, a) + sum over visits t of alpha w_t (x_t - Q(s, a))

    with one of

        importance      policy pi learned about     x_t         w_t      alpha
        none            b                           G_t         1        1 / (visits so far)
        ordinary        the best, from Q            rho_t G_t   1        1 / (visits so far)
        weighted        the best, from Q            G_t         rho_t    1 / (sum of rho so far)

    With exploring starts the first action of an episode is uniformly random. If in addition every state may begin an
    episode, epsilon = 0 is enough and the values are those of the optimal policy.

    The best actions are those before learning from this episode. Where an episode was truncated, its last return
    bootstraps from `sum_a pi(a | s') Q(s', a)`. Learning happens at the end of each rollout, from the episodes that
    ended in it, in the order of their ends. Parts of them in earlier rollouts are included.

    Source: Sutton & Barto 2018, "Reinforcement learning", sections 5.3, 5.4 and 5.7, eq. 5.5 to 5.8.
    """

    importance: Literal["none", "ordinary", "weighted"] = "none"
    """How returns of the behaviour are weighted to learn about the greedy policy; none learns about the behaviour."""
    visits: Literal["first", "every"] = "first"
    """Which visits of a pair in an episode count."""
    largest_ratio: float = ranged(1e6, "[1, inf)")
    """Ratios rho are cut here."""
    exploring_starts: bool = False
    """Begin each training episode with a random action; needs n_steps=1. Evaluate such an agent deterministically."""
    learning_rate: float | Schedule = ranged(1.0, "[0, 1]")
    """Step size; a number or a schedule of progress."""
    learning_rate_power: float | None = ranged(1.0, "[0, 1]")
    """Divides the step size by the visits (or weights) of (s, a) to this power: 1 makes a mean; None keeps it."""

    def __post_init__(self):
        check(self)
        if self.exploring_starts and self.n_steps != 1:
            raise ValueError(
                f"exploring_starts=True with n_steps={self.n_steps} is not allowed; the actor is told of "
                "new episodes only between rollouts, so use n_steps=1."
            )

    def init(self, key: Key, spec: Spec) -> MonteCarloControlState:
        """The initial training state. Raises ValueError for spaces that are not finite."""
        table = action_values(spec, self.initial_value)
        return MonteCarloControlState(
            table,
            jnp.zeros(table.q.shape, jnp.float32),
            pending_init(self.max_episode, spec.num_envs, extra=jnp.zeros((), jnp.float32)),
            clock_init(spec.total_timesteps),
        )

    initial_memory = no_memory

    def actor(self, state: MonteCarloControlState) -> EpsilonGreedy | ExploringStarts:
        """The table and the current epsilon."""
        usual = exploring_actor(self, state)
        return ExploringStarts(usual, state.pending.length == 0) if self.exploring_starts else usual

    noise = choice_noise

    def act(
        self, actor: EpsilonGreedy | ExploringStarts, obs: Pytree, memory: Pytree, noise: Array
    ) -> tuple[Array, Pytree, Pytree]:
        """An epsilon-greedy action: `-> action, memory, its probability`."""
        if isinstance(actor, ExploringStarts):
            usual, starts = actor
            action, memory, probability = self.act(usual, obs, memory, noise)
            if starts.shape != action.shape:  # not the environments of the training
                return action, memory, probability
            first, _, chance = self.act(usual._replace(epsilon=1.0), obs, memory, noise)
            return jnp.where(starts, first, action), memory, jnp.where(starts, chance, probability)
        action, probabilities = actor.sample(obs, noise), actor.chances(obs)
        taken = action[..., None] == jnp.arange(actor.sizes.actions)
        return action, memory, (probabilities * taken).sum(-1)

    def greedy(
        self, actor: EpsilonGreedy | ExploringStarts, obs: Pytree, memory: Pytree
    ) -> tuple[Array, Pytree]:
        """The best action: `-> action, memory`."""
        usual = actor.usual if isinstance(actor, ExploringStarts) else actor
        return usual.best(obs), memory

    def update(
        self, state: MonteCarloControlState, rollout: Rollout, key: Key
    ) -> tuple[MonteCarloControlState, dict[str, Array]]:
        """Learn from the episodes that ended: `-> state, metrics`."""
        table, shape = with_masks(state.table, rollout), state.table.q.shape
        learning_rate = schedule_value(self.learning_rate, progress(state.clock))
        epsilon = exploring_actor(self, state).epsilon if self.importance == "none" else 0.0

        def learn(carry, episode: Steps, here: Array):
            q, visits, total, error = carry
            target = EpsilonGreedy(table.sizes, q, epsilon, table.allowed)
            discount = self.gamma * (1 - episode.terminated)
            following = target.expected(episode.next_state)
            earned = discounted_returns(episode.reward, discount, following)
            pair = episode.state * shape[1] + episode.action
            counts = first_visits(pair, here, q.size) if self.visits == "first" else here
            weight = counts.astype(jnp.float32)
            if self.importance != "none":
                probability = target.probabilities(episode.state)[jnp.arange(len(pair)), episode.action]
                ratio = jnp.where(here, probability / jnp.maximum(episode.extra, 1e-9), 1)
                rho = ratios_to_the_end(jnp.append(ratio[1:], 1), self.largest_ratio)
                earned, weight = (
                    (rho * earned, weight) if self.importance == "ordinary" else (earned, rho * weight)
                )
            q, total, missed = move_by_weight(
                q.ravel(),
                total.ravel(),
                pair,
                target=earned,
                weight=weight,
                learning_rate=learning_rate,
                power=self.learning_rate_power,
            )
            visits = visits.at[episode.state, episode.action].add(here)
            return q.reshape(shape), visits, total.reshape(shape), error + missed

        steps = steps_of(table.sizes, rollout, rollout.extras)
        carry = table.q, table.visits, state.total, jnp.zeros(())
        carry, pending, counts = each_episode(learn, carry, state.pending, steps, rollout.truncated)
        q, visits, total, error = carry
        clock = advance_clock(state.clock, rollout.reward.size)
        metrics = {
            "return_error": error / jnp.maximum(counts["episodes"], 1),
            "learning_rate": jnp.asarray(learning_rate, jnp.float32),
        }
        table = table._replace(q=q, visits=visits)
        return MonteCarloControlState(table, total, pending, clock), metrics | counts
