"""Distillation: a policy that does at once what a planner finds by looking ahead (Ross, Gordon & Bagnell 2011)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.imitation.loss import imitation_loss
from advantage.algorithms.named_class import named_class
from advantage.algorithms.policy_gradient.shared.acting import (
    Actor,
    act_by_policy,
    greedy_by_policy,
    policy_noise,
)
from advantage.algorithms.policy_gradient.shared.options import ArchitectureOptions, UnitsOption
from advantage.algorithms.policy_gradient.shared.replayed_critic import empty_replay, repeat
from advantage.algorithms.policy_gradient.shared.state import (
    PolicyState,
    extended,
    network_state_init,
    without_critic,
)
from advantage.algorithms.value.shared.gradient_steps import adam_init, adam_step
from advantage.policies.heads import CategoricalHead
from advantage.replay.ring import Replay, replay_add, uniform_draw
from advantage.replay.sequences import sequences_at
from advantage.rows import choose
from advantage.running_moments import Normaliser, moments_update, normaliser
from advantage.types import Algorithm, Array, Key, Pytree, Rollout, Spec, no_memory

LIMIT = 10.0  # standard deviations of an observation
TEACHERS = {
    "shooting": "planning.shooting:Shooting",
    "cem-planning": "planning.cem_planning:CEMPlanning",
    "gradient-planning": "planning.gradient_planning:GradientPlanning",
    "mcts": "planning.mcts:MCTS",
    "exhaustive-search": "planning.exhaustive_search:ExhaustiveSearch",
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistillState(PolicyState):
    """A training state with the teacher's own state, and what it did: observations with its actions as `extras`."""

    teacher: Pytree
    replay: Replay


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Distill(ArchitectureOptions, UnitsOption):
    """Let a planner say what it would do where the policy goes, and teach it to the policy.

    After every n_steps steps of the policy in each environment:

        a*     <- what the planner does in each state that was visited
        D      <- D and the new (s, a*)                          without aggregate: the new ones alone
        gradient_steps times for each n_steps of one environment, with batch_size of D:
            theta  <- Adam on mean |a* - mu(s)|^2                Box
                      Adam on mean -log pi(a*|s)                 Discrete

    The planner uses the world's own rules, with its default options. Only the policy acts, and only it is evaluated.

    Source: Ross, Gordon & Bagnell 2011, "A reduction of imitation learning and structured prediction to no-regret
    online learning", algorithm 3.1 with beta = 0 (DAgger).
    """

    teacher: Literal["shooting", "cem-planning", "gradient-planning", "mcts", "exhaustive-search"] = (
        "cem-planning"
    )
    """The planner that is distilled."""
    aggregate: bool = True
    """Learn from all states visited so far, as DAgger does; otherwise from those of the last rollout."""
    n_steps: int = ranged(200, "[1, inf)")
    """Steps taken in each environment between updates."""
    gradient_steps: int = ranged(400, "[1, inf)")
    """Gradient steps for each n_steps of one environment."""
    batch_size: int = ranged(256, "[1, inf)")
    """States in a gradient step."""
    learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size; a number or a schedule of progress."""
    buffer_size: int = ranged(100_000, "[1, inf)")
    """Number of states that are kept."""
    log_std: float = ranged(-1.0, "[-5, 2]")
    """Logarithm of the standard deviation of continuous actions while learning, in halves of their range."""
    hidden: tuple[int, ...] = ranged((128, 128), "[1, inf)")
    """Widths of the hidden layers; observations with images have convolutions instead."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> DistillState:
        """Draw the initial training state.

        Raises:
            ValueError: a world that the planner cannot plan in, or a replay buffer that does not fit into memory.
        """
        key_policy, key_teacher = jax.random.split(key)
        teacher = self._teacher().init(key_teacher, spec)
        state = without_critic(
            network_state_init(
                self, key_policy, spec, bounds="clip", spread="state-independent", log_std=self.log_std
            )
        )
        label = jax.eval_shape(lambda key: state.policy.head.noise(key, ()), jax.random.key(0))
        if isinstance(state.policy.head, CategoricalHead):
            label = jax.ShapeDtypeStruct((), jnp.int32)
        return extended(
            state,
            DistillState,
            optimiser=adam_init(state.params["actor"]),
            teacher=teacher,
            replay=empty_replay(state.policy, spec, self.buffer_size, extras=label),
        )

    def actor(self, state: DistillState) -> Actor:
        """The policy that learns; the planner is not needed to act."""
        return Actor(state.policy, state.params["actor"], self._scale(state))

    initial_memory = no_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(
        self, state: DistillState, rollout: Rollout, key: Key
    ) -> tuple[DistillState, dict[str, Array]]:
        """Ask the planner and learn from its answers: `-> state, metrics`."""
        labels = self.answers(state.teacher, rollout)
        replay = replay_add(state.replay, rollout._replace(extras=labels))
        newest = rollout.reward.size
        rate = schedule_value(self.learning_rate, progress(state.clock))
        if state.policy.encoder.num_continuous:
            seen = state.policy.encoder.continuous(rollout.obs)
            state = dataclasses.replace(state, observations=moments_update(state.observations, seen))
        scale = self._scale(state)

        def step(carry: Any, key: Key) -> tuple[Any, dict[str, Array]]:
            actor, optimiser = carry
            index = uniform_draw(replay, key, self.batch_size)
            if not self.aggregate:
                index = replay.stored - 1 - index % jnp.minimum(newest, replay.stored)
            rows = sequences_at(replay, index, length=1)
            x = state.policy.encoder.policy_input(jax.tree.map(lambda leaf: leaf[0], rows.obs), scale)
            label = rows.extras[0]

            def loss(actor: Pytree) -> tuple[Array, dict[str, Array]]:
                value, difference = imitation_loss(state.policy.distribution(actor, x), label)
                return value, {"distillation_loss": value, "difference": difference}

            actor, optimiser, metrics = adam_step(loss, actor, optimiser, rate)
            return (actor, optimiser), metrics

        count = jnp.asarray(self.gradient_steps * newest // self.n_steps)
        (actor, optimiser), metrics = repeat(step, (state.params["actor"], state.optimiser), count, key)
        learned = dataclasses.replace(
            state,
            params={"actor": actor},
            optimiser=optimiser,
            replay=replay,
            clock=advance_clock(state.clock, newest),
        )
        return learned, metrics

    def answers(self, teacher: Pytree, rollout: Rollout) -> Array:
        """What the planner does in every state of a rollout, `[T, B, ...]`; its plans end where episodes do."""
        planner = self._teacher()
        actor = planner.actor(teacher)
        envs = rollout.reward.shape[1]
        begin = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (envs, *jnp.shape(leaf))), planner.initial_memory(actor)
        )

        def step(memory: Pytree, now: Any) -> tuple[Pytree, Array]:
            obs, done = now
            action, memory = planner.greedy(actor, obs, memory)
            return jax.tree.map(partial(choose, done), begin, memory), action

        done = jnp.logical_or(rollout.terminated, rollout.truncated)
        return jax.lax.scan(step, begin, (rollout.obs, done))[1]

    def _teacher(self) -> Algorithm:
        make: Any = named_class(TEACHERS[self.teacher])
        return make(action_units=self.action_units)

    def _scale(self, state: DistillState) -> Normaliser | None:
        return normaliser(state.observations, LIMIT) if state.policy.encoder.num_continuous else None
