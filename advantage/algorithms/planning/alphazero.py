"""AlphaZero: search guided by a policy and a value that learn from it (Silver et al. 2018)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged, schedule_value
from advantage.algorithms.planning.shared.acting import PlanMemory, no_plan, planning_noise
from advantage.algorithms.planning.shared.searching import (
    SearchOptions,
    act_by_search,
    decayed_adam,
    greedy_by_search,
    searched_steps,
)
from advantage.algorithms.policy_gradient.shared.experience import merge_time_and_envs
from advantage.algorithms.policy_gradient.shared.minibatches import minibatches
from advantage.algorithms.policy_gradient.shared.state import PolicyState, extended, network_state_init
from advantage.estimators.returns import credit
from advantage.models.interface import Model
from advantage.models.true_world import true_model
from advantage.objectives.surrogates import squared_error
from advantage.policies.actor_critic import ActorCritic
from advantage.policies.heads import CategoricalHead
from advantage.types import Array, Key, Pytree, Rollout, Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AlphaZeroState(PolicyState):
    """A training state with the rules, static, and a key for evaluations, uint32 `[2]`."""

    rules: Model
    key: Array


class RulesActor(NamedTuple):
    """The world's own rules, the networks that guide the search, and the key of evaluations."""

    model: Model
    policy: ActorCritic
    params: Pytree
    key: Array

    def guide(self, state: Pytree) -> tuple[Array, Array]:
        """`log p(. | s)` and `v(s)` of N states of the model."""
        x = self.policy.encoder.policy_input(self.model.observation(state))
        return self.policy.distribution(self.params["actor"], x).logits, self.policy.value(self.params, x)


class Positions(NamedTuple):
    """What a minibatch learns from, `[N, ...]`: inputs, the search's policy, and the return."""

    x: Pytree
    policy: Array
    target: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class AlphaZero(SearchOptions):
    """Search with the world's own rules, guided by networks, and train the networks on what the search finds.

    In each step, from the present state:

        pi, a  <- a search of so many simulations, guided by p(.|s) and v(s);  sometimes a is drawn at random

    After every n_steps in each environment, n_epochs times over the rollout in minibatches:

        z      <- r + sign gamma (1 - terminated) z'        lambda-returns; v where the rollout ends, and the value
                                                            that the search gives s where a was drawn at random
        theta  <- Adam on mean (-sum_a pi(a) log p(a|s) + vf_coef (z - v(s))^2 / 2)

    In a game of two players, such as jax/TicTacToe-v0, each step is a move of the player whose turn it is, and sign is
    -1. In a world of one player it is 1.

    Source: Silver et al. 2018, "A general reinforcement learning algorithm that masters chess, shogi, and Go through
    self-play"; Danihelka et al. 2022, "Policy improvement by planning with Gumbel", for search=gumbel.
    """

    n_steps: int = ranged(32, "[1, inf)")
    """Steps taken in each environment for one update."""
    batch_size: int = ranged(256, "[1, inf)")
    """Positions in a minibatch."""
    n_epochs: int = ranged(4, "[1, inf)")
    """Passes over each rollout."""
    td_lambda: float = ranged(1.0, "[0, 1]")
    """Lambda of the returns: 1 is the outcome, 0 the value that the search gives the next position. Returns stop before
    a step at random, whose own target is the value that the search gives its position."""
    exploration: float = ranged(0.25, "[0, 1]")
    """Share of steps at random while learning, so that all kinds of positions are seen."""
    share_network: bool = False
    """One network for policy and value, or one each."""
    hidden: tuple[int, ...] = ranged((128, 128), "[1, inf)")
    """Widths of the hidden layers; observations with images have convolutions instead."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> AlphaZeroState:
        """Draw the initial training state.

        Raises:
            ValueError: a world whose rules are not known, actions that are not Discrete, or a recurrent network.
        """
        key_policy, key_plans = jax.random.split(key)
        rules, state = (
            true_model(spec, "Use muzero, which learns a model"),
            network_state_init(self, key_policy, spec, shared=self.share_network, bounds="clip"),
        )
        if not isinstance(state.policy.head, CategoricalHead) or state.policy.is_recurrent:
            raise ValueError(
                f"AlphaZero needs Discrete actions and a network without memory, and the action space is "
                f"{spec.action_space}; use cem-planning or ppo."
            )
        return extended(
            state,
            AlphaZeroState,
            optimiser=decayed_adam(self).init(state.params),
            rules=rules,
            key=jax.random.key_data(key_plans),
        )

    def actor(self, state: AlphaZeroState) -> RulesActor:
        """The rules and the networks."""
        return RulesActor(state.rules, state.policy, state.params, state.key)

    initial_memory = no_plan
    noise = planning_noise

    def act(
        self, actor: RulesActor, obs: Pytree, memory: PlanMemory, noise: Array
    ) -> tuple[Array, PlanMemory, dict[str, Array]]:
        """Search with noise at the root, or act at random: `-> action, memory, what the search found`."""
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(jax.random.wrap_key_data(jnp.asarray(noise)))
        action, memory, extras = act_by_search(self, actor, obs, memory, jax.random.key_data(keys[:, 0]))
        allowed = actor.model.allowed(actor.model.begin(jax.tree.map(jnp.asarray, obs)))
        score = jax.vmap(lambda key: jax.random.uniform(key, extras["policy"].shape[1:]))(keys[:, 1])
        drawn = (score if allowed is None else jnp.where(allowed, score, -1.0)).argmax(-1)
        random = jax.vmap(jax.random.uniform)(keys[:, 2]) < self.exploration
        return jnp.where(random, drawn.astype(action.dtype), action), memory, extras | {"random": random}

    greedy = greedy_by_search
    model_steps = searched_steps

    def update(
        self, state: AlphaZeroState, rollout: Rollout, key: Key
    ) -> tuple[AlphaZeroState, dict[str, Array]]:
        """Learn from what the search found: `-> state, metrics`."""
        samples, spent = self._positions(state, rollout), progress(state.clock)
        rate = schedule_value(self.learning_rate, spent)
        count = samples.target.shape[0]
        size = count // max(1, count // self.batch_size)

        def step(carry: Any, batch: Positions) -> Any:
            params, optimiser = carry
            gradient, metrics = jax.grad(self._loss, has_aux=True)(params, state.policy, batch)
            updates, optimiser = decayed_adam(self).update(gradient, optimiser, params)
            return (jax.tree.map(lambda p, u: p - rate * u, params, updates), optimiser), metrics

        def epoch(carry: Any, key: Key) -> Any:
            return jax.lax.scan(step, carry, minibatches(samples, key, size))

        keys = jax.random.split(key, self.n_epochs)
        (params, optimiser), metrics = jax.lax.scan(epoch, (state.params, state.optimiser), keys)
        learned = dataclasses.replace(
            state,
            params=params,
            optimiser=optimiser,
            clock=advance_clock(state.clock, rollout.reward.size),
        )
        return learned, jax.tree.map(jnp.mean, metrics) | {"model_steps": jnp.float32(self.simulations)}

    def _positions(self, state: AlphaZeroState, rollout: Rollout) -> Positions:
        """Every step of a rollout with its target, `[T B, ...]`."""
        actor, sign = self.actor(state), state.rules.sign

        after = actor.guide(state.rules.begin(merge_time_and_envs(rollout.next_obs)))[1]
        after = after.reshape(rollout.reward.shape)
        searched = jnp.concatenate([rollout.extras["value"][1:], after[-1:]])
        next_value = jnp.where(rollout.truncated, after, searched)
        random = rollout.extras["random"]
        stops = rollout.terminated | rollout.truncated | jnp.concatenate([random[1:], random[:1]])
        target = returns_in_turn(
            rollout.reward,
            self.gamma * sign * (1 - rollout.terminated),
            next_value,
            self.td_lambda * (1 - stops),
        )
        target = jnp.where(random, rollout.extras["value"], target)
        x = state.policy.encoder.policy_input(merge_time_and_envs(rollout.obs))
        return Positions(x, *merge_time_and_envs((rollout.extras["policy"], target)))

    def _loss(self, params: Pytree, policy: ActorCritic, batch: Positions) -> tuple[Array, dict[str, Array]]:
        logits = policy.distribution(params["actor"], batch.x).logits
        log_p = jnp.where(batch.policy > 0, jax.nn.log_softmax(logits), 0.0)
        cross_entropy = -(batch.policy * log_p).sum(-1).mean()
        value_loss = squared_error(policy.value(params, batch.x), batch.target).mean()
        loss = cross_entropy + self.vf_coef * value_loss
        return loss, {"loss": loss, "cross_entropy": cross_entropy, "value_loss": value_loss}


def returns_in_turn(reward: Array, discount: Array, next_value: Array, trace: Array) -> Array:
    """Lambda-returns from the side of the player who moves: `z_t = r_t + d_t ((1 - c_t) v_{t+1} + c_t z_{t+1})`.

    Args:
        reward: `[T, ...]`, of the player who moves.
        discount: d, `[T, ...]`: negative where the other player moves next.
        next_value: `v_{t+1}`, for the player who moves then.
        trace: c, in [0, 1]; 0 at the end of an episode. The last row's is not used.
    """
    trace = trace.at[-1].set(0.0)
    return credit(reward + discount * (1 - trace) * next_value, discount, trace)
