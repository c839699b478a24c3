"""MuZero: search in a model that is learned to predict rewards, values and policies (Schrittwieser et al. 2020)."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged, schedule_value
from advantage.algorithms.planning.shared.acting import no_plan, planning_noise
from advantage.algorithms.planning.shared.searching import (
    SearchOptions,
    act_by_search,
    decayed_adam,
    greedy_by_search,
    searched,
    searched_steps,
)
from advantage.algorithms.policy_gradient.shared.experience import merge_time_and_envs
from advantage.algorithms.policy_gradient.shared.replayed_critic import repeat, replay_of
from advantage.algorithms.value.shared.gradient_steps import number_of_gradient_steps
from advantage.algorithms.value.shared.options import check_budget
from advantage.estimators.returns import credit
from advantage.models.latent import LatentModel, LatentNetworks
from advantage.objectives.distributional import cross_entropy
from advantage.objectives.value_categories import category_loss
from advantage.policies.actor_critic import choose_network, feed_forward
from advantage.policies.encoder import encoder
from advantage.policies.networks import MLP, Activation
from advantage.replay.ring import Replay, replay_add, uniform_draw
from advantage.replay.sequences import ReplayedSequences, sequences_at
from advantage.running_moments import Moments, moments_init, moments_update, normaliser
from advantage.types import Array, Clock, Key, Pytree, Rollout, Spec

LIMIT = 10.0  # standard deviations of an observation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MuZeroState:
    """The training state.

    Attributes:
        networks: shapes; static.
        params, optimiser: of the three networks.
        observations: running statistics.
        replay: steps, with the search's policy and value.
        key: uint32 `[2]`, the random numbers of evaluations.
        gradient_steps: uint32.
        clock: the share of the budget spent.
    """

    networks: LatentNetworks
    params: Pytree
    optimiser: Pytree
    observations: Moments
    replay: Replay
    key: Array
    gradient_steps: Array
    clock: Clock


class LatentActor(NamedTuple):
    """The model, which guides the search too, and the key of evaluations."""

    model: LatentModel
    key: Array

    def guide(self, state: Array) -> tuple[Array, Array]:
        """`log p` and v of N states of the model."""
        return self.model.guide(state)


class Targets(NamedTuple):
    """What an unroll of K steps learns from N sequences, `[K + 1, N, ...]`.

    Attributes:
        action: int32 `[K, N]`.
        policy: the search's.
        value: z.
        reward: `[K, N]`.
        going: bool, nothing has ended before: the policy counts.
        counts: bool, before a truncation and the newest step: rewards and values count.
    """

    action: Array
    policy: Array
    value: Array
    reward: Array
    going: Array
    counts: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class MuZero(SearchOptions):
    """Search in a learned model whose states need not be observations.

    In each step, from h(x) of the present observation x:

        pi, a  <- a search of so many simulations in g, guided by f

    After every n_steps in each environment, gradient_steps times for each environment, with batch_size sequences from
    the replay buffer that begin at a step t:

        s_0    <- h(x_t);   s_k+1, r_k <- g(s_k, a_t+k),   p_k, v_k <- f(s_k),   k = 0 .. unroll_steps
        z_k    <- the rewards of td_steps steps or more from t+k on, and then v of the observation there
        theta  <- Adam on the mean over k of  CE(p_k, pi_t+k) + vf_coef CE(v_k, z_k) + CE(r_k, reward_t+k)

    CE are cross-entropies; values and rewards are probabilities of categories. What g passes back to s_k counts half.
    Beyond a termination, rewards and values are 0 and the policy counts nothing; beyond a truncation nothing counts.
    With reanalyse, pi is searched anew with the present networks.

    Source: Schrittwieser et al. 2020, "Mastering Atari, Go, chess and shogi by planning with a learned model", eq. 1
    and appendix G; Schrittwieser et al. 2021, "Online and offline reinforcement learning by planning with a learned
    model", for reanalyse.
    """

    simulations: int = ranged(25, "[1, inf)")
    """Simulations for each decision."""
    n_steps: int = ranged(8, "[1, inf)")
    """Steps taken in each environment between updates."""
    gradient_steps: int = ranged(2, "[1, inf)")
    """Gradient steps for each n_steps of one environment."""
    batch_size: int = ranged(128, "[1, inf)")
    """Sequences in a gradient step."""
    unroll_steps: int = ranged(5, "[1, inf)")
    """Steps of the model that are trained from one observation."""
    td_steps: int = ranged(10, "[1, inf)")
    """The fewest rewards in a value's target before it bootstraps."""
    gamma: float = ranged(0.997, "[0, 1]")
    """Discount per step."""
    vf_coef: float = ranged(0.25, "[0, inf)")
    """Weight of the value's loss."""
    max_grad_norm: float | None = ranged(5.0, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""
    latent_size: int = ranged(64, "[2, inf)")
    """Length of a state of the model."""
    value_limit: int = ranged(25, "[1, inf)")
    """The largest category of values and rewards, whose number grows as the square root: 25 stands for about 640."""
    reanalyse: bool = False
    """Search replayed observations anew, with the present networks."""
    buffer_size: int = ranged(100_000, "[1, inf)")
    """Number of steps that the replay buffer holds."""
    learning_starts: int = ranged(500, "[0, inf)")
    """Environment steps before the first gradient step."""
    hidden: tuple[int, ...] = ranged((128,), "[1, inf)")
    """Widths of the hidden layers of each network; observations with images have convolutions in h."""

    activation: Activation = "relu"
    """Activation after each hidden layer."""

    def __post_init__(self):
        check(self)
        if self.buffer_size < self._length:
            raise ValueError(
                f"buffer_size={self.buffer_size} is below unroll_steps + td_steps = {self._length}; use "
                f"{self._length} or more."
            )

    @property
    def _length(self) -> int:
        return self.unroll_steps + self.td_steps

    def init(self, key: Key, spec: Spec) -> MuZeroState:
        """Draw the initial training state.

        Raises:
            ValueError: actions that are not Discrete, an action mask, a recurrent network, learning that starts after
                the budget, or a replay buffer that does not fit into memory.
        """
        check_budget(self, spec)
        key_networks, key_plans = jax.random.split(key)
        seen = encoder(spec.observation_space)
        if not isinstance(spec.action_space, spaces.Discrete) or seen.has_mask:
            what = "an action mask" if seen.has_mask else f"the action space {spec.action_space}"
            raise ValueError(
                f"MuZero needs Discrete actions that are all possible, and there is {what}; use alphazero, "
                "cem-planning or ppo."
            )
        network = choose_network(
            self.network, spec.observation_space, self.hidden, self.activation, self.initialisation
        )
        layers = MLP(self.hidden, self.activation, self.initialisation)
        networks = LatentNetworks(
            seen, feed_forward(network), layers, self.latent_size, int(spec.action_space.n), self.value_limit
        )
        params = networks.init(key_networks, seen.encode(seen.example()))
        number = jax.ShapeDtypeStruct((), jnp.float32)
        found = {"policy": jax.ShapeDtypeStruct((networks.choices,), jnp.float32), "value": number}
        action = jax.ShapeDtypeStruct((), jnp.int32)
        return MuZeroState(
            networks,
            params,
            decayed_adam(self).init(params),
            moments_init((seen.num_continuous,)),
            replay_of(spec, action, self.buffer_size, extras=found),
            jax.random.key_data(key_plans),
            jnp.uint32(0),
            clock_init(spec.total_timesteps),
        )

    def actor(self, state: MuZeroState) -> LatentActor:
        """The model with the present parameters."""
        return self._actor(state, state.params)

    initial_memory = no_plan
    noise = planning_noise
    act = act_by_search
    greedy = greedy_by_search
    model_steps = searched_steps

    def update(self, state: MuZeroState, rollout: Rollout, key: Key) -> tuple[MuZeroState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        replay, rate = (
            replay_add(state.replay, rollout),
            schedule_value(self.learning_rate, progress(state.clock)),
        )
        count = number_of_gradient_steps(self, replay, rollout.reward.size)

        def step(carry: Any, key: Key) -> tuple[Any, dict[str, Array]]:
            params, optimiser = carry
            key_draw, key_search = jax.random.split(key)
            rows = sequences_at(replay, uniform_draw(replay, key_draw, self.batch_size), length=self._length)
            actor = self._actor(state, params)
            targets = self._targets(actor, rows, key_search)
            x = state.networks.encoder.policy_input(
                jax.tree.map(lambda leaf: leaf[0], rows.obs), actor.model.scale
            )
            loss = jax.grad(lambda params: self._loss(state.networks, params, x, targets), has_aux=True)
            gradient, metrics = loss(params)
            updates, optimiser = decayed_adam(self).update(gradient, optimiser, params)
            return (jax.tree.map(lambda p, u: p - rate * u, params, updates), optimiser), metrics

        (params, optimiser), metrics = repeat(step, (state.params, state.optimiser), count, key)
        observations = state.observations
        if state.networks.encoder.num_continuous:
            observations = moments_update(observations, state.networks.encoder.continuous(rollout.obs))
        learned = dataclasses.replace(
            state,
            params=params,
            optimiser=optimiser,
            observations=observations,
            replay=replay,
            gradient_steps=state.gradient_steps + count.astype(jnp.uint32),
            clock=advance_clock(state.clock, rollout.reward.size),
        )
        return learned, metrics | {"gradient_steps": count, "model_steps": jnp.float32(self.simulations)}

    def _actor(self, state: MuZeroState, params: Pytree) -> LatentActor:
        scale = normaliser(state.observations, LIMIT) if state.networks.encoder.num_continuous else None
        return LatentActor(LatentModel(state.networks, params, scale), state.key)

    def _targets(self, actor: LatentActor, rows: ReplayedSequences, key: Key) -> Targets:
        """Of sequences `[L, N, ...]`, for their first K + 1 steps."""
        steps, size = rows.reward.shape

        after = actor.guide(actor.model.begin(merge_time_and_envs(rows.next_obs)))[1].reshape(steps, size)
        value = returns_to_the_end(rows, after, self.gamma)
        policy = rows.extras["policy"]
        first = slice(0, self.unroll_steps + 1)
        if self.reanalyse:
            obs = merge_time_and_envs(jax.tree.map(lambda x: x[first], rows.obs))
            policy = searched(self, actor, obs, key, explore=False).policy.reshape(-1, size, policy.shape[-1])
        done = jnp.logical_or(rows.terminated, rows.truncated)
        before = jnp.concatenate([jnp.zeros((1, size), bool), done[:-1]])
        going = jnp.cumsum(before, axis=0) == 0
        cut = jnp.concatenate([jnp.zeros((1, size), bool), (rows.truncated & going)[:-1]])
        known = jnp.where(going, rows.mask, True) & (jnp.cumsum(cut, axis=0) == 0)
        return Targets(
            rows.action[: self.unroll_steps],
            policy[first],
            jnp.where(going, value, 0.0)[first],
            jnp.where(going, rows.reward, 0.0)[: self.unroll_steps],
            (going & known)[first],
            known[first],
        )

    def _loss(
        self, networks: LatentNetworks, params: Pytree, x: Pytree, targets: Targets
    ) -> tuple[Array, dict[str, Array]]:
        def predicted(state: Array, k: Array | int) -> tuple[Array, Array]:
            policy, value = networks.predict(params, state)
            of_policy = jnp.where(targets.going[k], cross_entropy(targets.policy[k], policy), 0.0)
            of_value = jnp.where(targets.counts[k], category_loss(value, targets.value[k]), 0.0)
            return of_policy.mean(), of_value.mean()

        def unroll(state: Array, k: Array) -> tuple[Array, tuple[Array, Array, Array]]:
            # appendix G: half of the gradient from the dynamics, all of it from f(s_k)
            state = 0.5 * state + 0.5 * jax.lax.stop_gradient(state)
            state, reward = networks.advance(params, state, targets.action[k])
            of_reward = jnp.where(targets.counts[k], category_loss(reward, targets.reward[k]), 0.0).mean()
            return state, (*predicted(state, k + 1), of_reward)

        begin = networks.represent(params, x)
        policy, value = predicted(begin, 0)
        _, later = jax.lax.scan(unroll, begin, jnp.arange(self.unroll_steps))
        share = 1 / (self.unroll_steps + 1)
        policy, value = (
            share * (now + more.sum()) for now, more in zip((policy, value), later[:2], strict=True)
        )
        reward = later[2].mean()
        loss = policy + self.vf_coef * value + reward
        return loss, {"loss": loss, "policy_loss": policy, "value_loss": value, "reward_loss": reward}


def returns_to_the_end(rows: ReplayedSequences, next_value: Array, gamma: Array | float) -> Array:
    """The discounted return of each step up to the end of its episode or of the sequence, then a value: `[L, N]`.

        z_t = r_t + gamma (1 - terminated_t) (v(x_{t+1}) where the sequence or the episode ends, else z_{t+1})

    Args:
        rows: `[L, N]` steps; what lies beyond the newest step of the buffer is no part of a sequence.
        next_value: `v(x_{t+1})` of the true successors.
        gamma: discount per step.
    """
    done = jnp.logical_or(rows.terminated, rows.truncated)
    follows = jnp.concatenate([rows.mask[1:], jnp.zeros_like(rows.mask[:1])]) & ~done
    discount = gamma * (1 - rows.terminated)
    return credit(
        rows.reward + discount * jnp.where(follows, 0.0, next_value), discount, follows.astype(jnp.float32)
    )
