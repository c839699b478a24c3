"""Proximal policy optimization (Schulman et al. 2017), clipped surrogate."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from advantage.algorithms.chunks import map_chunks
from advantage.algorithms.hyperparameters import Schedule, at, check, hyperparameters, ranged
from advantage.algorithms.permutation import random_permutation
from advantage.estimators.credit import explained_variance, gae, standardise
from advantage.estimators.reward_scale import (
    RewardScale,
    reward_scale_init,
    reward_scale_update,
    scale_reward,
)
from advantage.objectives.surrogate import (
    clipped_squared_error,
    clipped_surrogate,
    kl_estimate,
    squared_error,
)
from advantage.policies.actor_critic import ActorCritic, Bounds, Spread, actor_critic, choose_network
from advantage.policies.networks import Activation, Initialisation
from advantage.policies.normalisation import Moments, Normaliser, moments_init, moments_update, normaliser
from advantage.types import Array, Key, Pytree, Rollout, Spec


class PPOState(NamedTuple):
    """Everything PPO knows; `policy` is static."""

    policy: ActorCritic
    params: Pytree
    optimiser: optax.OptState
    observations: Moments
    rewards: RewardScale
    step: Array
    total_timesteps: Array


class Actor(NamedTuple):
    """The part that acts: the actor's parameters and the statistics it sees through."""

    policy: ActorCritic
    params: Pytree
    normaliser: Normaliser | None

    def distribution(self, obs: Pytree) -> Any:
        return self.policy.distribution(self.params, encode(self.policy, self.normaliser, obs))


class Batch(NamedTuple):
    """What the surrogate needs of each sample, `[N, ...]`."""

    x: Pytree
    action: Pytree
    log_prob: Array
    value: Array
    advantage: Array
    target: Array


def encode(policy: ActorCritic, normalise: Normaliser | None, obs: Pytree) -> Pytree:
    """What the networks see of an observation."""
    return policy.encoder.encode(obs, normalise) if normalise else policy.encoder.encode(obs)


@hyperparameters
@dataclasses.dataclass(frozen=True)
class PPO:
    """Proximal policy optimization with the clipped surrogate.

    For each rollout of `n_steps` in each environment, with `theta_old` the parameters that acted:

        log pi_old, V    <- one batch, from theta_old
        A_t              <- GAE(gamma, gae_lambda);  G_t <- A_t + V(s_t)
        for each of n_epochs, for each minibatch of batch_size:
            rho          <- pi_theta(a|s) / pi_old(a|s)
            L            <- -mean min(rho A, clip(rho, 1 - clip_range, 1 + clip_range) A)
                            + vf_coef mean (V - G)^2 / 2 - ent_coef mean H(pi)
            stop         if the estimated KL(pi_old || pi_theta) exceeds 1.5 target_kl
            theta        <- Adam(theta, clip_norm(grad L, max_grad_norm))
        the statistics   <- merged with what this rollout showed; used from the next one on

    Departures from the paper: observations and rewards are scaled by running statistics and clipped, advantages
    are normalised, weights are orthogonal, gradients are clipped by their global norm, as in the code that
    accompanied it. Each is an option.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7, 9 and algorithm 1.
    """

    learning_rate: float | Schedule = ranged(3e-4, "[0, inf)")
    """Adam's step size; a number or a schedule of progress."""
    n_steps: int = ranged(2048, "[1, inf)")
    """Steps taken in each environment for one update."""
    batch_size: int = ranged(64, "[1, inf)")
    """Samples in a minibatch; divides n_steps * num_envs."""
    n_epochs: int = ranged(10, "[1, inf)")
    """Passes over each rollout."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    gae_lambda: float = ranged(0.95, "[0, 1]")
    """Reach of credit in GAE: 0 is the TD error, 1 the Monte-Carlo return."""
    clip_range: float | Schedule = ranged(0.2, "(0, inf)")
    """Half-width of the interval around 1 that the ratio is rewarded in; a number or a schedule."""
    clip_range_vf: float | Schedule | None = ranged(None, "(0, inf)")
    """How far a value may move from the one when acting, in units of return; None does not clip."""
    normalize_advantage: Literal["minibatch", "batch", "none"] = "minibatch"
    """Over which samples advantages get zero mean and unit variance."""
    ent_coef: float = ranged(0.0, "[0, inf)")
    """Weight of the entropy bonus, per nat."""
    vf_coef: float = ranged(0.5, "[0, inf)")
    """Weight of the critic's loss."""
    max_grad_norm: float | None = ranged(0.5, "(0, inf)")
    """Largest global norm of a gradient; None does not clip."""
    target_kl: float | None = ranged(None, "(0, inf)")
    """Ends an update before the step at which the estimated KL, in nats, passes 1.5 times this; None never."""
    normalize_observation: bool = True
    """Scale observations by running mean and standard deviation."""
    clip_observation: float = ranged(10.0, "(0, inf)")
    """Limit of a scaled observation, in standard deviations."""
    normalize_reward: bool = True
    """Divide rewards by the running standard deviation of the discounted return."""
    clip_reward: float = ranged(10.0, "(0, inf)")
    """Limit of a scaled reward, in standard deviations of the return."""
    hidden: tuple[int, ...] = ranged((64, 64), "[1, inf)")
    """Widths of the hidden layers; observations with images have convolutions instead."""
    activation: Activation = "tanh"
    """After each hidden layer."""
    initialisation: Initialisation = "orthogonal"
    """Of weights: orthogonal with gains, or independent normals."""
    share_network: bool = False
    """One network for actor and critic, or one each."""
    action_bounds: Bounds = "clip"
    """Bounded continuous actions: clip a Gaussian's samples, or squash them by tanh."""
    action_spread: Spread = "state-independent"
    """Whether a Gaussian's standard deviation is a parameter or an output of the network."""
    log_std_init: float = ranged(0.0, "[-5, 2]")
    """Logarithm of the first standard deviation."""
    adam_epsilon: float = ranged(1e-5, "(0, inf)")
    """Added to Adam's denominator."""
    network: Any = None
    """A network of your own, from Python only: a pair (init, apply), adv.MLP, adv.CNN, adv.from_flax(...)."""

    def __post_init__(self):
        check(self)

    def init(self, key: Key, spec: Spec) -> PPOState:
        """Draw the first state.

        Raises:
            ValueError: a space that PPO cannot handle, or a batch_size that does not divide the rollout.
        """
        samples = self.n_steps * spec.num_envs
        if samples % self.batch_size:
            divisors = [d for d in range(1, samples + 1) if samples % d == 0]
            near = sorted(sorted(divisors, key=lambda d: abs(d - self.batch_size))[:2])
            raise ValueError(
                f"batch_size={self.batch_size} does not divide n_steps * num_envs = {self.n_steps} * "
                f"{spec.num_envs} = {samples}; use a divisor such as {' or '.join(map(str, near))}."
            )
        policy = actor_critic(
            spec.observation_space,
            spec.action_space,
            choose_network(
                self.network, spec.observation_space, self.hidden, self.activation, self.initialisation
            ),
            shared=self.share_network,
            initialisation=self.initialisation,
            bounds=self.action_bounds,
            spread=self.action_spread,
        )
        params = policy.init(key, self.log_std_init)
        return PPOState(
            policy,
            params,
            self._optimiser().init(ravel_pytree(params)[0]),
            moments_init((policy.encoder.num_continuous,)),
            reward_scale_init(spec.num_envs),
            jnp.zeros((), jnp.uint32),
            jnp.asarray(spec.total_timesteps, jnp.uint32),
        )

    def actor(self, state: PPOState) -> Actor:
        """The actor's parameters and the statistics under which it acts."""
        normalise = self.normalize_observation and state.policy.encoder.num_continuous
        scaler = normaliser(state.observations, self.clip_observation) if normalise else None
        return Actor(state.policy, state.params["actor"], scaler)

    def noise(self, actor: Actor, key: Key, shape: tuple[int, ...]) -> Pytree:
        """What `act` will consume, `[*shape, ...]`."""
        return actor.policy.head.noise(key, shape)

    def act(self, actor: Actor, obs: Pytree, memory: Pytree, noise: Pytree) -> tuple[Pytree, Pytree, Pytree]:
        """Sample: `-> action, memory, extras`."""
        return actor.distribution(obs).sample(noise), memory, ()

    def greedy(self, actor: Actor, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        """The mode: `-> action, memory`."""
        return actor.distribution(obs).mode(), memory

    def update(self, state: PPOState, rollout: Rollout, key: Key) -> tuple[PPOState, dict[str, Array]]:
        """One rollout's worth of learning: `-> state, metrics`."""
        progress = state.step.astype(jnp.float32) / state.total_timesteps.astype(jnp.float32)
        learning_rate, clip_range = at(self.learning_rate, progress), at(self.clip_range, progress)
        batch = self._batch(state, rollout)
        samples = batch.advantage.shape[0]
        num_minibatches = max(1, samples // self.batch_size)  # the last rollout of a run may be shorter
        size = samples // num_minibatches

        def minibatch_step(carry, minibatch):
            params, optimiser, stopped = carry
            if self.normalize_advantage == "minibatch":
                minibatch = minibatch._replace(advantage=standardise(minibatch.advantage))
            loss = partial(jax.grad(self._loss, has_aux=True), unflatten(params), state.policy, progress)
            gradient, metrics = jax.tree.map(lambda x: x.mean(0), map_chunks(loss, minibatch))
            gradient, _ = ravel_pytree(gradient)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            updates, new_optimiser = self._optimiser().update(gradient, optimiser)
            new_params = params - learning_rate * updates
            evaluated = ~stopped
            if self.target_kl is not None:
                stopped = stopped | (metrics["approx_kl"] > 1.5 * self.target_kl)
                keep = jax.tree.map(
                    partial(jnp.where, stopped), (params, optimiser), (new_params, new_optimiser)
                )
                new_params, new_optimiser = keep
            return (new_params, new_optimiser, stopped), (metrics, evaluated, ~stopped)

        def epoch(carry, key):
            order = random_permutation(key, samples)[: num_minibatches * size]
            minibatches = jax.tree.map(lambda x: x[order].reshape(num_minibatches, size, *x.shape[1:]), batch)
            return jax.lax.scan(minibatch_step, carry, minibatches)

        params, unflatten = ravel_pytree(state.params)  # one vector: Adam's step is then one loop
        start = (params, state.optimiser, jnp.zeros((), bool))
        keys = jax.random.split(key, self.n_epochs)
        (params, optimiser, _), (metrics, evaluated, applied) = jax.lax.scan(epoch, start, keys)

        metrics = {
            name: jnp.where(evaluated, value, 0).sum() / evaluated.sum() for name, value in metrics.items()
        }
        metrics["n_updates"] = applied.sum()
        metrics["learning_rate"] = jnp.asarray(learning_rate, jnp.float32)
        metrics["clip_range"] = jnp.asarray(clip_range, jnp.float32)
        metrics["explained_variance"] = explained_variance(batch.value, batch.target)
        done = rollout.terminated | rollout.truncated
        learned = state._replace(
            params=unflatten(params),
            optimiser=optimiser,
            observations=self._observe(state, rollout),
            rewards=reward_scale_update(state.rewards, rollout.reward, done, self.gamma),
            step=state.step + jnp.uint32(samples),
        )
        return learned, metrics

    def _batch(self, state: PPOState, rollout: Rollout) -> Batch:
        """Log-probabilities, values and advantages under the parameters and statistics that acted, `[T * B, ...]`."""
        policy, normalise = state.policy, self.actor(state).normaliser

        def look(rows):
            obs, next_obs, action = rows
            x, next_x = encode(policy, normalise, obs), encode(policy, normalise, next_obs)
            log_prob = policy.distribution(state.params["actor"], x).log_prob(action)
            return x, policy.value(state.params, x), policy.value(state.params, next_x), log_prob

        shape = rollout.reward.shape
        rows = jax.tree.map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (rollout.obs, rollout.next_obs, rollout.action)
        )
        seen = map_chunks(look, rows)
        x, value, next_value, log_prob = jax.tree.map(
            lambda leaf: leaf.reshape(*shape, *leaf.shape[2:]), seen
        )
        reward = rollout.reward
        if self.normalize_reward:
            reward = scale_reward(state.rewards, reward, self.clip_reward)
        discount = self.gamma * (1 - rollout.terminated)
        trace = self.gae_lambda * (1 - (rollout.terminated | rollout.truncated))
        advantage = gae(reward, discount, value, next_value, trace)
        target = advantage + value
        if self.normalize_advantage == "batch":
            advantage = standardise(advantage)
        batch = Batch(x, rollout.action, log_prob, value, advantage, target)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)

    def _loss(self, params: Pytree, policy: ActorCritic, progress: Array, batch: Batch):
        """The paper's eq. 9, to descend: `-> loss, metrics`."""
        distribution, value = policy.distribution(params["actor"], batch.x), policy.value(params, batch.x)
        log_ratio = distribution.log_prob(batch.action) - batch.log_prob
        clip_range = at(self.clip_range, progress)
        policy_loss = clipped_surrogate(log_ratio, batch.advantage, clip_range).mean()
        if self.clip_range_vf is None:
            value_loss = squared_error(value, batch.target).mean()
        else:
            value_range = at(self.clip_range_vf, progress)
            value_loss = clipped_squared_error(value, batch.value, batch.target, value_range).mean()
        entropy = distribution.entropy().mean()
        loss = policy_loss + self.vf_coef * value_loss - self.ent_coef * entropy
        return loss, {
            "loss": loss,
            "policy_gradient_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "approx_kl": kl_estimate(log_ratio).mean(),
            "clip_fraction": (jnp.abs(jnp.expm1(log_ratio)) > clip_range).mean(),
        }

    def _observe(self, state: PPOState, rollout: Rollout) -> Moments:
        if not (self.normalize_observation and state.policy.encoder.num_continuous):
            return state.observations
        return moments_update(state.observations, state.policy.encoder.continuous(rollout.obs))

    def _optimiser(self) -> optax.GradientTransformation:
        adam = optax.scale_by_adam(eps=self.adam_epsilon)
        if self.max_grad_norm is None:
            return adam
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), adam)
