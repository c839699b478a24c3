"""Distillation: a policy that learns what a planner, or another agent, would do (Ross, Gordon & Bagnell 2011)."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.imitation.loss import imitation_loss
from advantage.algorithms.planning.shared.acting import PlanMemory
from advantage.algorithms.planning.shared.teachers import (
    PLANNERS,
    Loss,
    TaughtBy,
    planner,
    policy_of,
    teaching_actor,
)
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
from advantage.models.true_world import true_model
from advantage.policies.actor_critic import ActorCritic, feed_forward
from advantage.policies.distributions import Distribution
from advantage.policies.heads import CategoricalHead
from advantage.replay.ring import Replay, replay_add, uniform_draw
from advantage.replay.sequences import sequences_at
from advantage.rows import choose
from advantage.running_moments import Normaliser, moments_update, normaliser
from advantage.types import Algorithm, Array, Key, Pytree, Rollout, Spec, no_memory

LIMIT = 10.0  # standard deviations of an observation
WITHOUT_RULES = (
    "Train a planner that learns a model (advantage train cem-planning ENV --model learned), and give its folder as "
    "the teacher"
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistillState(PolicyState):
    """A training state with a teacher: its actor, its memory of the running episodes, `[B, ...]`, and its answers.

    The replay buffer has observations with the answers as `extras`.
    """

    teacher: Pytree
    memory: Pytree
    replay: Replay


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Distill(ArchitectureOptions, UnitsOption):
    """Let a teacher say what it would do where the policy goes, and teach it to the policy.

    After every n_steps steps of the policy in each environment:

        a*     <- what the teacher does in each state that was visited, without noise; a planner begins anew in each
        pi*    <- its probabilities                              with loss=kl, in place of a*
        D      <- D and the new (s, a*)                          without aggregate: the new ones alone
        gradient_steps times for each n_steps of one environment, with batch_size of D:
            theta  <- Adam on mean |a* - mu(s)|^2                loss=action, Box
                      Adam on mean -log pi(a*|s)                 loss=action, Discrete
                      Adam on mean KL(pi*(.|s) || pi(.|s))       loss=kl

    The teacher is a planner, which uses the world's own rules with its default options, or the agent of a run. Only the
    policy acts, and only it is evaluated. A planner forgets its plan after each answer and always uses the same random
    numbers: so its answer depends on the state alone, as the policy's does. Where two plans are equally good, it would
    otherwise answer now with one and now with the other, and the policy would learn their mean.

    Source: Ross, Gordon & Bagnell 2011, "A reduction of imitation learning and structured prediction to no-regret
    online learning", algorithm 3.1 with beta = 0 (DAgger); Rusu et al. 2016, "Policy distillation", eq. 3, for loss=kl.
    """

    teacher: str = "cem-planning"
    """Who is distilled: shooting, cem-planning, gradient-planning, mcts, exhaustive-search, or the folder of a run."""
    loss: Loss = "action"
    """Learn the teacher's actions, or with kl its probabilities of actions, which the agent of a run must have."""
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

    taught_by: TaughtBy = dataclasses.field(default=None, metadata={"is_pytree": True})
    """The agent of the run, which training puts here."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> DistillState:
        """Draw the initial training state.

        Raises:
            ValueError: a world that the planner cannot plan in, a recurrent network, a teacher without probabilities
                for loss=kl, or a replay buffer that does not fit into memory.
        """
        key_policy, key_teacher = jax.random.split(key)
        algorithm, given = self._teacher(), None
        if self.taught_by is None:
            true_model(spec, WITHOUT_RULES)
        else:
            given = self.taught_by.actor
        teacher = teaching_actor(algorithm, given, key_teacher, spec)
        state = without_critic(
            network_state_init(
                self, key_policy, spec, bounds="clip", spread="state-independent", log_std=self.log_std
            )
        )
        feed_forward(state.policy.network)
        label = jax.eval_shape(partial(self._label, state.policy), jax.random.key(0))
        if self.loss == "kl":
            _require_probabilities(teacher, state.policy)
        return extended(
            state,
            DistillState,
            optimiser=adam_init(state.params["actor"]),
            teacher=teacher,
            memory=self._first_memory(teacher, spec.num_envs),
            replay=empty_replay(state.policy, spec, self.buffer_size, extras=label),
        )

    def actor(self, state: DistillState) -> Actor:
        """The policy that learns; the teacher is not needed to act."""
        return Actor(state.policy, state.params["actor"], self._scale(state))

    initial_memory = no_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(
        self, state: DistillState, rollout: Rollout, key: Key
    ) -> tuple[DistillState, dict[str, Array]]:
        """Ask the teacher and learn from its answers: `-> state, metrics`."""
        labels, memory = self.answers(state.teacher, rollout, state.memory)
        replay = replay_add(state.replay, rollout._replace(extras=labels))
        newest = rollout.reward.size
        rate = schedule_value(self.learning_rate, progress(state.clock))
        if state.policy.encoder.num_continuous:
            seen = state.policy.encoder.continuous(rollout.obs)
            state = dataclasses.replace(state, observations=moments_update(state.observations, seen))
        scale = self._scale(state)

        def step(carry: Any, key: Key) -> tuple[Any, dict[str, Array]]:
            actor, optimiser = carry
            rows = sequences_at(replay, self.drawn(replay, key, newest), length=1)
            x = state.policy.encoder.policy_input(jax.tree.map(lambda leaf: leaf[0], rows.obs), scale)
            label = jax.tree.map(lambda leaf: leaf[0], rows.extras)

            def loss(actor: Pytree) -> tuple[Array, dict[str, Array]]:
                return self._loss(state.policy.distribution(actor, x), label)

            actor, optimiser, metrics = adam_step(loss, actor, optimiser, rate)
            return (actor, optimiser), metrics

        count = jnp.asarray(self.gradient_steps * newest // self.n_steps)
        (actor, optimiser), metrics = repeat(step, (state.params["actor"], state.optimiser), count, key)
        learned = dataclasses.replace(
            state,
            params={"actor": actor},
            optimiser=optimiser,
            memory=memory,
            replay=replay,
            clock=advance_clock(state.clock, newest),
        )
        return learned, metrics

    def drawn(self, replay: Replay, key: Key, newest: int) -> Array:
        """The steps of a batch, each equally likely: of all that are stored, or of so many that are the newest."""
        if self.aggregate:
            return uniform_draw(replay, key, self.batch_size)
        among = jnp.minimum(newest, replay.stored)
        return replay.stored - 1 - jax.random.randint(key, (self.batch_size,), 0, among)

    def _loss(self, distribution: Distribution, label: Pytree) -> tuple[Array, dict[str, Array]]:
        """Of a batch of the student's distributions, given the teacher's answers."""
        value, difference = imitation_loss(distribution, label.mode() if self.loss == "kl" else label)
        if self.loss == "kl":
            value = label.kl(distribution).mean()
        return value, {"distillation_loss": value, "difference": difference}

    def answers(self, actor: Pytree, rollout: Rollout, memory: Pytree) -> tuple[Pytree, Pytree]:
        """What the teacher does in every state of a rollout: `-> [T, B, ...], memory`.

        With loss=kl its distributions of actions. What it remembers, `[B, ...]`, ends where episodes do, and a plan
        at once.
        """
        teacher, policy = self._teacher(), policy_of(actor)
        begin = self._first_memory(actor, rollout.reward.shape[1])
        forgets = isinstance(begin, PlanMemory)

        def step(memory: Pytree, now: Any) -> tuple[Pytree, Pytree]:
            obs, done = now
            if self.loss == "kl" and policy is not None:
                answer, memory = policy.step(obs, memory)
            else:
                answer, memory = teacher.greedy(actor, obs, memory)
            return jax.tree.map(partial(choose, done), begin, memory), answer

        done = jnp.logical_or(rollout.terminated, rollout.truncated)
        memory, answers = jax.lax.scan(step, memory, (rollout.obs, jnp.logical_or(done, forgets)))
        return answers, memory

    def _first_memory(self, actor: Pytree, envs: int) -> Pytree:
        """What the teacher remembers when episodes begin, `[B, ...]`."""
        begin = self._teacher().initial_memory(actor)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (envs, *jnp.shape(leaf))), begin)

    def _teacher(self) -> Algorithm:
        if self.taught_by is not None:
            return self.taught_by.algorithm
        if self.teacher not in PLANNERS:
            raise ValueError(
                f"teacher={self.teacher!r} is not allowed; use one of {', '.join(PLANNERS)}, or the folder of a run."
            )
        return planner(self.teacher, self.action_units)

    def _label(self, policy: ActorCritic, key: Key) -> Pytree:
        """An answer of the teacher, in its shapes: a distribution, a choice, or numbers."""
        if self.loss == "kl":
            return policy.head.distribution(
                jnp.zeros(policy.head.num_outputs), jnp.zeros(policy.head.num_log_std)
            )
        return jnp.int32(0) if isinstance(policy.head, CategoricalHead) else policy.head.noise(key, ())

    def _scale(self, state: DistillState) -> Normaliser | None:
        return normaliser(state.observations, LIMIT) if state.policy.encoder.num_continuous else None


def _require_probabilities(teacher: Pytree, student: ActorCritic) -> None:
    """Raise ValueError if a teacher has no probabilities of actions, or of another kind than the student."""
    policy = policy_of(teacher)
    if policy is None or type(policy.policy.head) is not type(student.head):
        raise ValueError(
            "loss='kl' needs a teacher whose probabilities have the student's form: the run of a method with a "
            "stochastic policy, such as ppo, trpo or a2c, with a choice or a clipped Gaussian. This teacher has none; "
            "use loss='action' (--loss action)."
        )
