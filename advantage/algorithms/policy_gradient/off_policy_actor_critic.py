"""Off-policy actor-critic with a replay buffer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from advantage.algorithms.clock import progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.policy_gradient.shared.acting import (
    act_by_policy,
    greedy_by_policy,
    policy_actor,
    policy_memory,
    policy_noise,
)
from advantage.algorithms.policy_gradient.shared.experience import advance_statistics
from advantage.algorithms.policy_gradient.shared.optimisers import clipped
from advantage.algorithms.policy_gradient.shared.options import PolicyOptions
from advantage.algorithms.policy_gradient.shared.replayed_critic import (
    Learned,
    ReplayedState,
    fit_action_value,
    polyak,
    repeat,
    replayed_batch,
    replayed_state,
)
from advantage.algorithms.policy_gradient.shared.state import policy_state_init, without_critic
from advantage.algorithms.value.shared.options import check_budget
from advantage.objectives.surrogates import score_function_loss
from advantage.policies.action_value import action_value
from advantage.policies.actor_critic import ActorCritic
from advantage.policies.heads import GaussianHead, Head, ProductHead
from advantage.policies.networks import Activation
from advantage.replay.ring import replay_add
from advantage.types import Array, Key, Pytree, Rollout, Spec


@hyperparameters
@dataclasses.dataclass(frozen=True)
class OffPolicyActorCritic(PolicyOptions):
    """Off-policy actor-critic: actor and critic learn from a replay buffer, with actions of the current policy.

    Each rollout of n_steps in each environment is stored. Then gradient_steps times for each environment, with
    batch_size transitions (s, a, r, s') drawn from the buffer:

        y        <- r + gamma (1 - terminated) Q'(s', a'),  a' ~ pi(.|s')
        Q        <- Adam on mean (Q(s, a) - y)^2 / 2
        g        <- mean (Q(s, a^pi) - b(s)) ∇log pi(a^pi|s),  a^pi ~ pi(.|s)     gradient = score
                    mean ∇ Q(s, mu(s) + std(s) noise)                            gradient = pathwise
        theta    <- Adam along g + ent_coef mean ∇H(pi(.|s))
        Q'       <- (1 - tau) Q' + tau Q

    The actor's actions are drawn anew, action_samples in each state, since the stored ones are from older policies.
    The baseline b is the expectation of Q if actions are Discrete, otherwise the mean over the state's other draws,
    and 0 for a single draw. For Discrete actions the expectation over a' is exact too.

    The buffer keeps raw observations and rewards; they are scaled when they are used.

    Departures from the paper: an action-value critic with replay and a slow target network replaces importance weights
    and gradient TD; states are weighted as in the buffer.

    Source: Degris, White & Sutton 2012, "Off-policy actor-critic"; Silver et al. 2014, "Deterministic policy gradient
    algorithms", section 2.4; Heess et al. 2015, "Learning continuous control policies by stochastic value gradients",
    section 4, for the pathwise form.
    """

    gradient: Literal["score", "pathwise"] = "score"
    """The actor's gradient: the score function, for any action; or through Q, for continuous actions."""
    learning_rate: float | Schedule = ranged(3e-4, "[0, inf)")
    """Adam's step size for the actor; a number or a schedule of progress."""
    critic_learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for Q; a number or a schedule of progress."""
    n_steps: int = ranged(40, "[1, inf)")
    """Steps taken in each environment between updates."""
    gradient_steps: int = ranged(40, "[1, inf)")
    """Adam steps per n_steps of one environment; equal to n_steps, this is one for each transition."""
    batch_size: int = ranged(128, "[1, inf)")
    """Transitions in a gradient step."""
    buffer_size: int = ranged(1_000_000, "[1, inf)")
    """Number of transitions that the replay buffer holds."""
    learning_starts: int = ranged(1000, "[0, inf)")
    """Environment steps before the first gradient step; they count as part of the budget."""
    tau: float = ranged(0.005, "(0, 1]")
    """Share by which the target network moves towards Q in each gradient step."""
    action_samples: int = ranged(8, "[1, inf)")
    """Actions drawn in each state for the actor's gradient."""
    ent_coef: float = ranged(0.1, "[0, inf)")
    """Weight of the entropy bonus, in rewards per nat; without one the policy may stop exploring."""
    max_grad_norm: float | None = ranged(None, "(0, inf)")
    """Largest norm of the actor's gradient; None does not clip."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    activation: Activation = "relu"
    """Activation after each hidden layer."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> ReplayedState:
        """Draw the initial training state.

        Raises:
            ValueError: a space that no policy covers, a pathwise gradient of actions that are not continuous,
                learning that starts after the budget, or a replay buffer that does not fit into memory.
        """
        check_budget(self, spec)
        key_policy, key_critic = jax.random.split(key)
        state = policy_state_init(self, key_policy, spec)
        if self.gradient == "pathwise" and not _continuous(state.policy.head):
            raise ValueError(
                f"gradient='pathwise' needs continuous actions, but the action space is {spec.action_space}; use "
                "gradient='score'."
            )
        state = without_critic(state)
        moments = self._optimiser().init(ravel_pytree(state.params["actor"])[0])
        state = dataclasses.replace(state, optimiser={"actor": moments})
        return replayed_state(key_critic, state, spec, self.buffer_size)

    actor = policy_actor
    initial_memory = policy_memory
    noise = policy_noise
    act = act_by_policy
    greedy = greedy_by_policy

    def update(
        self, state: ReplayedState, rollout: Rollout, key: Key
    ) -> tuple[ReplayedState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        replay, spent = replay_add(state.replay, rollout), progress(state.clock)
        size = rollout.reward.size
        begun = replay.added >= jnp.uint32(self.learning_starts)
        count = jnp.where(begun, self.gradient_steps * size // self.n_steps, 0)
        rate, critic_rate = (
            schedule_value(schedule, spent) for schedule in (self.learning_rate, self.critic_learning_rate)
        )

        def step(learned: Learned, key: Key) -> tuple[Learned, dict[str, Array]]:
            key_batch, key_target, key_actor = jax.random.split(key, 3)
            batch = replayed_batch(self, state, replay, key_batch, size=self.batch_size)
            params, optimiser, target = learned
            q = Learned(params["action_value"], optimiser["action_value"], target)
            critic = fit_action_value(state.policy, params["actor"], q, batch, key_target, critic_rate)
            ascent = self._ascent(state.policy, critic.params, batch.x, key_actor)
            actor, moments, metrics = ascent(params["actor"], optimiser["actor"], rate)
            learned = Learned(
                {"actor": actor, "action_value": critic.params},
                {"actor": moments, "action_value": critic.optimiser},
                polyak(target, critic.params, self.tau),
            )
            return learned, metrics | {"action_value_loss": critic.metrics["value_loss"]}

        before = Learned(state.params, state.optimiser, state.target)
        (params, optimiser, target), metrics = repeat(step, before, count, key)
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout),
            params=params,
            optimiser=optimiser,
            target=target,
            replay=replay,
        )
        return learned, metrics | {"gradient_steps": count}

    def _ascent(self, policy: ActorCritic, critic: Pytree, x: Pytree, key: Key) -> Callable[..., Any]:
        """One step of Adam for the actor, as a function `(actor, optimiser, rate) -> actor, optimiser, metrics`."""
        size = jax.tree.leaves(x)[0].shape[0]
        noise = policy.head.noise(key, (self.action_samples, size))
        form = pathwise_form if self.gradient == "pathwise" else score_form

        def ascend(
            actor: Pytree, optimiser: Any, rate: Array | float
        ) -> tuple[Pytree, Any, dict[str, Array]]:
            start, unflatten = ravel_pytree(actor)

            def loss(actor: Array) -> tuple[Array, dict[str, Array]]:
                distribution = policy.distribution(unflatten(actor), x)
                gain = form(policy, distribution, critic, x, noise)
                entropy = distribution.entropy().mean()
                metrics = {"policy_gradient_loss": -gain, "entropy": entropy}
                return -gain - self.ent_coef * entropy, metrics

            gradient, metrics = jax.grad(loss, has_aux=True)(start)
            metrics["gradient_norm"] = jnp.linalg.norm(gradient)
            updates, optimiser = self._optimiser().update(gradient, optimiser)
            return unflatten(start - rate * cast(Array, updates)), optimiser, metrics

        return ascend

    def _optimiser(self) -> optax.GradientTransformation:
        return clipped(optax.scale_by_adam(), self.max_grad_norm)


def score_form(policy: ActorCritic, distribution: Any, critic: Pytree, x: Pytree, noise: Pytree) -> Array:
    """`mean (Q(s, a) - b(s)) log pi(a|s)` over actions that are drawn here and held fixed.

    Args:
        policy, critic: the networks, and the parameters of Q.
        distribution: pi, over the states `x`, `[N]`.
        noise: the random numbers for `distribution.sample`, `[K, N, ...]`, for K actions in each state.
    """
    q, fixed = action_value(policy), jax.lax.stop_gradient(distribution)
    action = jax.vmap(fixed.sample)(noise)
    value = jax.vmap(q.value, (None, None, 0))(critic, x, action)
    if q.is_discrete:
        baseline = q.expected(critic, x, fixed, None)
    else:
        baseline = (value.sum(0) - value) / max(len(value) - 1, 1)  # of the other draws
    return -score_function_loss(distribution.log_prob(action), value - baseline).mean()


def pathwise_form(policy: ActorCritic, distribution: Any, critic: Pytree, x: Pytree, noise: Pytree) -> Array:
    """`mean Q(s, a)` over actions that move with the policy; arguments as for `score_form`."""
    action = jax.vmap(distribution.sample)(noise)
    return jax.vmap(action_value(policy).value, (None, None, 0))(critic, x, action).mean()


def _continuous(head: Head) -> bool:
    if isinstance(head, ProductHead):
        return all(map(_continuous, head.parts))
    return isinstance(head, GaussianHead)
