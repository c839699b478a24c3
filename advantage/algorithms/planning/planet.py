"""PlaNet: cross-entropy planning in the states of a recurrent model (Hafner et al. 2019)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged, schedule_value
from advantage.algorithms.planning.shared.acting import PlanMemory, PlanningActor, planning_noise
from advantage.algorithms.planning.shared.latent_learning import (
    BeliefMemory,
    LatentOptions,
    WorldLearning,
    WorldParams,
    believed,
    latent_of,
    learn_world,
    no_belief,
    world_learning,
)
from advantage.algorithms.planning.shared.options import CrossEntropyOptions
from advantage.algorithms.planning.shared.sequences import (
    check_elites,
    decide_by_cross_entropy,
    first_distribution,
)
from advantage.algorithms.policy_gradient.shared.replayed_critic import repeat
from advantage.algorithms.value.shared.gradient_steps import number_of_gradient_steps
from advantage.models.recurrent_state_space import LatentWorld
from advantage.replay.ring import replay_add
from advantage.types import Array, Clock, Key, Pytree, Rollout, Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlaNetState:
    """The training state: the model, the random numbers of evaluations, uint32 `[2]`, and the clock."""

    world: WorldLearning
    key: Array
    clock: Clock


class PlaNetMemory(NamedTuple):
    """Belief and last action, and the plan with the number of decisions, `[N, ...]`."""

    seen: BeliefMemory
    plan: PlanMemory


@hyperparameters
@dataclasses.dataclass(frozen=True)
class PlaNet(CrossEntropyOptions, LatentOptions):
    """Learn a recurrent state-space model, and plan in its states by the cross-entropy method.

    After every n_steps in each environment, gradient_steps times for each environment:

        model  <- Adam on the reconstruction of observations, rewards and ends, and on the divergence of the posterior
                  q(z | h, x) from the prior p(z | h), along batch_size sequences of replayed observations

    At every step:

        h, z   <- GRU(h, z, a), and a draw from the posterior of the observation
        p      <- the plan of the step before, one step later
        iterations times:
            value  <- sum_t gamma^t r_t of candidates drawn from p, in the model from (h, z)
            p      <- fit to the elites
        a      <- the first action of the mean of p, with noise while learning

    Source: Hafner et al. 2019, "Learning latent dynamics for planning from pixels", algorithms 1 and 2; the model's
    losses as in Hafner et al. 2023, "Mastering diverse domains through world models", eq. 2 and 3.
    """

    gradient_steps: int = ranged(3, "[1, inf)")
    """Gradient steps for each n_steps of one environment."""
    exploration: float = ranged(0.3, "[0, 1]")
    """While learning: the standard deviation of noise on a continuous action, in halves of its range, or how often a
    Discrete one is drawn at random."""

    def __post_init__(self):
        check(self)
        check_elites(self)
        latent_of(self)

    def init(self, key: Key, spec: Spec) -> PlaNetState:
        """Draw the initial training state. Raises ValueError as `world_learning`."""
        key_world, key_plans = jax.random.split(key)
        world = world_learning(self, key_world, spec)
        return PlaNetState(world, jax.random.key_data(key_plans), clock_init(spec.total_timesteps))

    def actor(self, state: PlaNetState) -> PlanningActor:
        """The model as it is now."""
        random = state.clock.step < jnp.uint32(self.learning_starts)
        return PlanningActor(state.world.model, state.world.actions, state.key, random)

    def initial_memory(self, actor: PlanningActor) -> PlaNetMemory:
        """No belief, and the first distribution over plans."""
        return PlaNetMemory(no_belief(latent_world(actor).networks), first_distribution(self, actor))

    noise = planning_noise

    def act(
        self, actor: PlanningActor, obs: Pytree, memory: PlaNetMemory, noise: Array
    ) -> tuple[Array, PlaNetMemory, tuple[()]]:
        """Plan, and add noise; at random before the model is learned: `-> action, memory, extras`."""
        keys = jax.vmap(lambda key: jax.random.split(key, 4))(jax.random.wrap_key_data(jnp.asarray(noise)))
        networks = latent_world(actor).networks
        latent = jax.vmap(lambda key: networks.latent.noise(key, ()))(keys[:, 0])

        def explore(action: Array, keys: Array) -> Array:
            if actor.actions.choices:
                uniform = actor.actions.uniform(keys[0], ()).astype(action.dtype)
                return jnp.where(jax.random.uniform(keys[1]) < self.exploration, uniform, action)
            noise = self.exploration * actor.actions.half * jax.random.normal(keys[1], action.shape)
            return actor.actions.clipped(action + noise)

        def by_plan() -> tuple[Array, PlaNetMemory]:
            action, following = self._planned(actor, obs, memory, keys[:, 1], latent)
            action = jax.vmap(explore)(action, keys[:, 2:])
            seen = following.seen._replace(action=networks.action_vector(action))
            return action, following._replace(seen=seen)

        def at_random() -> tuple[Array, PlaNetMemory]:
            action = jax.vmap(lambda key: actor.actions.uniform(key, ()))(keys[:, 2])
            return action, memory._replace(plan=memory.plan._replace(decisions=memory.plan.decisions + 1))

        action, following = jax.lax.cond(actor.random, at_random, by_plan)
        return action, following, ()

    def greedy(self, actor: PlanningActor, obs: Pytree, memory: PlaNetMemory) -> tuple[Array, PlaNetMemory]:
        """Plan from the most likely belief, with random numbers that depend on the number of the decision."""
        begin = jax.random.wrap_key_data(jnp.asarray(actor.key))
        keys = jax.vmap(lambda number: jax.random.fold_in(begin, number))(memory.plan.decisions)
        return self._planned(actor, obs, memory, keys, None)

    def update(self, state: PlaNetState, rollout: Rollout, key: Key) -> tuple[PlaNetState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        world = state.world
        replay = replay_add(world.replay, rollout)
        rate = schedule_value(self.model_learning_rate, progress(state.clock))
        count = number_of_gradient_steps(self, replay, rollout.reward.size)

        def step(learned: WorldParams, key: Key) -> tuple[WorldParams, dict[str, Array]]:
            learned, _, _, metrics = learn_world(self, world.networks, learned, replay, key, rate)
            return learned, metrics

        learned, metrics = repeat(step, world.learned, count, key)
        steps = world.gradient_steps + count.astype(jnp.uint32)
        world = dataclasses.replace(world, learned=learned, replay=replay, gradient_steps=steps)
        clock = advance_clock(state.clock, rollout.reward.size)
        return dataclasses.replace(state, world=world, clock=clock), {
            **metrics,
            "gradient_steps": count,
            "model_steps": jnp.float32(self.model_steps(state)),
        }

    def model_steps(self, state: PlaNetState) -> int:
        """Those of all candidates of all iterations."""
        return self.horizon * (self.particles or 1) * self.candidates * self.iterations

    def _planned(
        self, actor: PlanningActor, obs: Pytree, memory: PlaNetMemory, keys: Array, noise: Array | None
    ) -> tuple[Array, PlaNetMemory]:
        """Actions and the following memories, `[N, ...]`."""
        model = latent_world(actor)
        belief = believed(model, obs, memory.seen, noise)

        def one(belief: Pytree, plan: Pytree, key: Key) -> tuple[Array, Pytree]:
            return decide_by_cross_entropy(self, actor, belief, plan, key, self.gamma)

        action, plan = jax.vmap(one)(belief, memory.plan.plan, keys)
        seen = BeliefMemory(belief, model.networks.action_vector(action))
        return action, PlaNetMemory(seen, PlanMemory(plan, memory.plan.decisions + 1))


def latent_world(actor: PlanningActor) -> LatentWorld:
    """The actor's model."""
    assert isinstance(actor.model, LatentWorld)
    return actor.model
