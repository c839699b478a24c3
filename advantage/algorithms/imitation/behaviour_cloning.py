"""Behaviour cloning: a policy that does what recorded episodes show (Pomerleau 1991)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.imitation.loss import imitation_loss
from advantage.algorithms.policy_gradient.shared.acting import (
    Actor,
    act_by_policy,
    greedy_by_policy,
    policy_memory,
    policy_noise,
)
from advantage.algorithms.policy_gradient.shared.experience import merge_time_and_envs
from advantage.algorithms.policy_gradient.shared.options import ArchitectureOptions, UnitsOption
from advantage.algorithms.policy_gradient.shared.state import PolicyState, network_state_init, without_critic
from advantage.algorithms.value.shared.gradient_steps import adam_init, adam_step
from advantage.policies.recurrent import Memories, Sequences
from advantage.running_moments import Normaliser, moments_update, normaliser
from advantage.types import Array, Key, Pytree, Rollout, Spec

LIMIT = 10.0  # standard deviations of an observation


@hyperparameters
@dataclasses.dataclass(frozen=True)
class BehaviourCloning(ArchitectureOptions, UnitsOption):
    """Learn a policy from recorded episodes (`--data FILE`) as from examples, without any reward.

    n_steps recorded steps (s, a) are drawn, each with the same probability, and:

        theta  <- Adam on mean |a - mode of pi(.|s)|^2     Box
                  Adam on mean -log pi(a|s)                choices
                  the sum of these                         several actions at once

    The budget counts recorded steps, each as often as it is drawn. The environment is used to evaluate only.

    Source: Pomerleau 1991, "Efficient training of artificial neural networks for autonomous navigation"; Bain & Sammut
    1995, "A framework for behavioural cloning".
    """

    n_steps: int = ranged(256, "[1, inf)")
    """Recorded steps in a gradient step."""
    sequence_length: int = ranged(1, "[1, inf)")
    """Consecutive steps that are drawn together, for a recurrent network, whose memory is empty before the first; a
    divisor of n_steps times num_envs."""
    learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size; a number or a schedule of progress."""
    normalize_observation: bool = True
    """Scale observations by running mean and standard deviation."""
    log_std: float = ranged(-1.0, "[-5, 2]")
    """Logarithm of the standard deviation of continuous actions, in halves of their range; it is not learned."""
    hidden: tuple[int, ...] = ranged((128, 128), "[1, inf)")
    """Widths of the hidden layers; observations with images have convolutions instead."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> PolicyState:
        """Draw the initial training state.

        Raises:
            ValueError: a space that no policy covers, or a recurrent network that would see single steps only.
        """
        state = without_critic(network_state_init(self, key, spec, bounds="clip", log_std=self.log_std))
        if state.policy.is_recurrent and self.sequence_length == 1:
            raise ValueError(
                "A recurrent network learns from consecutive steps, and sequence_length=1 gives it single ones; use "
                "sequence_length=16 or so (--sequence-length 16)."
            )
        return dataclasses.replace(state, optimiser=adam_init(state.params["actor"]))

    def actor(self, state: PolicyState) -> Actor:
        """The policy and the statistics that scale its observations."""
        return Actor(state.policy, state.params["actor"], self._scale(state))

    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(self, state: PolicyState, rollout: Rollout, key: Key) -> tuple[PolicyState, dict[str, Array]]:
        """One gradient step on the actions of a rollout, whoever took them: `-> state, metrics`."""
        policy = state.policy
        if self.normalize_observation and policy.encoder.num_continuous:
            seen = policy.encoder.continuous(rollout.obs)
            state = dataclasses.replace(state, observations=moments_update(state.observations, seen))
        x, action = policy.encoder.policy_input(rollout.obs, self._scale(state)), rollout.action
        if policy.is_recurrent:
            done = jnp.logical_or(rollout.terminated, rollout.truncated)
            begins = jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]])
            envs = rollout.reward.shape[1]
            memory = jax.tree.map(lambda leaf: jnp.stack([leaf] * envs), policy.initial_memory())
            x, action = Sequences(x, begins, Memories(memory, ())), merge_time_and_envs(action)
        else:
            x, action = merge_time_and_envs((x, action))

        def loss(actor: Pytree) -> tuple[Array, dict[str, Array]]:
            value, difference = imitation_loss(policy.distribution(actor, x), action)
            return value, {"imitation_loss": value, "difference": difference}

        rate = schedule_value(self.learning_rate, progress(state.clock))
        actor, optimiser, metrics = adam_step(loss, state.params["actor"], state.optimiser, rate)
        clock = advance_clock(state.clock, rollout.reward.size)
        return dataclasses.replace(state, params={"actor": actor}, optimiser=optimiser, clock=clock), metrics

    def _scale(self, state: PolicyState) -> Normaliser | None:
        scales = self.normalize_observation and state.policy.encoder.num_continuous
        return normaliser(state.observations, LIMIT) if scales else None
