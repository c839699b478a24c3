"""Dreamer: an actor and a critic that learn in the states of a recurrent model (Hafner et al. 2020)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.planning.shared.imagined_policy import (
    ImaginedPolicy,
    imagine,
    running_spread,
    starts,
)
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
from advantage.algorithms.policy_gradient.shared.replayed_critic import polyak, repeat
from advantage.algorithms.value.shared.gradient_steps import adam_init, adam_step, number_of_gradient_steps
from advantage.estimators.returns import lambda_returns
from advantage.models.recurrent_state_space import Belief, LatentWorld
from advantage.planners.action_sequences import PlannedActions
from advantage.policies.heads import head
from advantage.policies.networks import MLP
from advantage.replay.ring import replay_add
from advantage.types import Array, Clock, Key, Pytree, Rollout, Spec


class DreamerLearning(NamedTuple):
    """What a gradient step changes.

    Attributes:
        world: the model.
        params, optimiser: of actor and critic.
        target: the critic that follows slowly.
        scale: the running distance between the 5th and the 95th percentile of imagined returns.
    """

    world: WorldParams
    params: Pytree
    optimiser: Pytree
    target: Pytree
    scale: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DreamerState:
    """The training state: the model, and all that is learned in it; `policy` is static."""

    world: WorldLearning
    policy: ImaginedPolicy
    params: Pytree
    optimiser: Pytree
    target: Pytree
    scale: Array
    clock: Clock


class DreamerActor(NamedTuple):
    """What acting needs: the model, the policy with its parameters, and whether it still acts at random."""

    model: LatentWorld
    actions: PlannedActions
    policy: ImaginedPolicy
    params: Pytree
    random: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Dreamer(LatentOptions):
    """Learn a recurrent state-space model, and an actor and a critic from what they imagine in it.

    After every n_steps in each environment, gradient_steps times for each environment:

        model  <- Adam on the reconstruction of observations, rewards and ends, and on the divergence of the posterior
                  q(z | h, x) from the prior p(z | h), along batch_size sequences of replayed observations
        s_0    <- imagined_starts of their beliefs;  a_t ~ pi(. | s_t),  s_t+1, r_t+1, d_t+1 <- model    t < horizon
        G_t    <- r_t+1 + gamma (1 - d_t+1) ((1 - lam) v'(s_t+1) + lam G_t+1)
        actor  <- Adam up  G_t / max(1, S) + entropy_coef H(pi)                        Box, through the model
                           (G_t - v(s_t)) / max(1, S) log pi(a_t | s_t) + ...          Discrete
        v      <- Adam on the loss of G_t;   v' <- (1 - tau) v' + tau v

    S is a running mean of the distance between the 5th and the 95th percentile of G. Steps after a likely end weigh
    less.

    Source: Hafner et al. 2020, "Dream to control: learning behaviors by latent imagination", algorithm 1 and eq. 6;
    Hafner et al. 2023, "Mastering diverse domains through world models", eq. 2 to 7. That work takes the score function
    for continuous actions too.
    """

    horizon: int = ranged(15, "[1, inf)")
    """Imagined steps."""
    imagined_starts: int = ranged(256, "[1, inf)")
    """Beliefs from which a gradient step imagines."""
    actor_gradient: Literal["pathwise", "score"] | None = None
    """The gradient of the actor: through the model, or by log-probabilities. None: pathwise for a Box, else score."""
    gae_lambda: float = ranged(0.95, "[0, 1]")
    """The share of longer imagined returns."""
    ent_coef: float = ranged(3e-4, "[0, inf)")
    """Weight of the entropy, against returns of size 1."""
    learning_rate: float | Schedule = ranged(3e-4, "[0, inf)")
    """Adam's step size for actor and critic; a number or a schedule of progress."""
    tau: float = ranged(0.02, "(0, 1]")
    """Fraction by which the critic in targets moves in each gradient step."""
    hidden: tuple[int, ...] = ranged((128, 128), "[1, inf)")
    """Widths of the hidden layers of actor and critic."""

    def __post_init__(self):
        check(self)
        latent_of(self)

    def init(self, key: Key, spec: Spec) -> DreamerState:
        """Draw the initial training state.

        Raises:
            ValueError: as `world_learning`, or a pathwise gradient of Discrete actions.
        """
        key_world, key_policy = jax.random.split(key)
        world = world_learning(self, key_world, spec)
        if self.actor_gradient == "pathwise" and world.actions.choices:
            raise ValueError(
                f"actor_gradient=pathwise needs a Box, and the action space is {spec.action_space}; use score."
            )
        part = head(spec.action_space, "squash", "state-dependent", spec.action_units)
        policy = ImaginedPolicy(MLP(self.hidden, self.activation), part, world.networks.numbers.num_outputs)
        params = policy.init(key_policy, world.networks.num_features)
        return DreamerState(
            world,
            policy,
            params,
            {name: adam_init(part, self.max_grad_norm) for name, part in params.items()},
            params["value"],
            jnp.zeros(()),
            clock_init(spec.total_timesteps),
        )

    def actor(self, state: DreamerState) -> DreamerActor:
        """The model and the policy as they are now."""
        random = state.clock.step < jnp.uint32(self.learning_starts)
        model, actions = state.world.model, state.world.actions
        return DreamerActor(model, actions, state.policy, state.params["actor"], random)

    def initial_memory(self, actor: DreamerActor) -> BeliefMemory:
        """No belief."""
        return no_belief(actor.model.networks)

    def noise(self, actor: DreamerActor, key: Key, shape: tuple[int, ...]) -> tuple[Pytree, ...]:
        """What a step consumes: for the belief, for the action, and an action at random."""
        keys = jax.random.split(key, 3)
        return (
            actor.model.networks.latent.noise(keys[0], shape),
            actor.policy.head.noise(keys[1], shape),
            actor.actions.uniform(keys[2], shape),
        )

    def act(
        self, actor: DreamerActor, obs: Pytree, memory: BeliefMemory, noise: tuple[Pytree, ...]
    ) -> tuple[Array, BeliefMemory, tuple[()]]:
        """Sample from the policy, or at random before the model is learned: `-> action, memory, extras`."""
        of_belief, of_action, at_random = noise
        belief = believed(actor.model, obs, memory, jnp.asarray(of_belief))
        action = actor.policy.distribution(actor.params, belief.features).sample(of_action)
        action = jnp.where(actor.random, at_random, action)
        return action, BeliefMemory(belief, actor.model.networks.action_vector(action)), ()

    def greedy(self, actor: DreamerActor, obs: Pytree, memory: BeliefMemory) -> tuple[Array, BeliefMemory]:
        """The most likely action in the most likely belief: `-> action, memory`."""
        belief = believed(actor.model, obs, memory, None)
        action = actor.policy.distribution(actor.params, belief.features).mode()
        return action, BeliefMemory(belief, actor.model.networks.action_vector(action))

    def update(
        self, state: DreamerState, rollout: Rollout, key: Key
    ) -> tuple[DreamerState, dict[str, Array]]:
        """Store the rollout and take its gradient steps: `-> state, metrics`."""
        world = state.world
        replay = replay_add(world.replay, rollout)
        share = progress(state.clock)
        model_rate, rate = (schedule_value(x, share) for x in (self.model_learning_rate, self.learning_rate))

        def step(learning: DreamerLearning, key: Key) -> tuple[DreamerLearning, dict[str, Array]]:
            key_world, key_begin, key_imagine = jax.random.split(key, 3)
            learned, beliefs, rows, metrics = learn_world(
                self, world.networks, learning.world, replay, key_world, model_rate
            )
            begin, weight = starts(beliefs, rows, key_begin, self.imagined_starts)
            learning, more = self._behave(
                LatentWorld(world.networks, learned.params),
                state.policy,
                learning._replace(world=learned),
                begin,
                weight,
                key_imagine,
                rate,
            )
            return learning, metrics | more

        count = number_of_gradient_steps(self, replay, rollout.reward.size)
        before = DreamerLearning(world.learned, state.params, state.optimiser, state.target, state.scale)
        after, metrics = repeat(step, before, count, key)
        steps = world.gradient_steps + count.astype(jnp.uint32)
        learned = dataclasses.replace(
            state,
            world=dataclasses.replace(world, learned=after.world, replay=replay, gradient_steps=steps),
            params=after.params,
            optimiser=after.optimiser,
            target=after.target,
            scale=after.scale,
            clock=advance_clock(state.clock, rollout.reward.size),
        )
        return learned, metrics | {"gradient_steps": count}

    def _behave(
        self,
        model: LatentWorld,
        policy: ImaginedPolicy,
        learning: DreamerLearning,
        begin: Belief,
        weight: Array,
        key: Key,
        rate: Array | float,
    ) -> tuple[DreamerLearning, dict[str, Array]]:
        """One step of actor and critic from imagined returns."""
        networks, numbers = model.networks, model.networks.numbers
        pathwise = self.actor_gradient == "pathwise" or (self.actor_gradient is None and not networks.choices)
        stop = jax.lax.stop_gradient

        def actor_loss(actor: Pytree) -> tuple[Array, tuple[Any, dict[str, Array]]]:
            imagined = imagine(model, policy, actor, begin, key, self.horizon, pathwise=pathwise)
            reached = imagined.features[1:]
            reward = numbers.mean(networks.reward(model.params, reached))
            value = numbers.mean(policy.value(learning.target, reached))
            discount = self.gamma * (1 - jax.nn.sigmoid(networks.end(model.params, reached)))
            returns = lambda_returns(reward, discount, value, jnp.full_like(reward, self.gae_lambda))
            scale = running_spread(learning.scale, stop(returns))
            gain = returns
            if not pathwise:
                baseline = numbers.mean(policy.value(learning.params["value"], imagined.features[:-1]))
                gain = stop(returns - baseline) * imagined.log_prob
            alive = jnp.cumprod(jnp.concatenate([weight[None], stop(discount[:-1])]), axis=0)
            share = alive / jnp.maximum(alive.sum(), 1e-8)
            objective = share * (gain / jnp.maximum(1.0, scale) + self.ent_coef * imagined.entropy)
            metrics = {"imagined_return": returns.mean(), "entropy": imagined.entropy.mean()}
            return -objective.sum(), (stop((imagined.features[:-1], returns, share, scale)), metrics)

        def part(name: str, loss: Any) -> Any:
            part, moments = learning.params[name], learning.optimiser[name]
            return adam_step(loss, part, moments, rate, max_grad_norm=self.max_grad_norm)

        actor, of_actor, ((features, returns, share, scale), metrics) = part("actor", actor_loss)

        def value_loss(value: Pytree) -> tuple[Array, dict[str, Array]]:
            loss = (share * numbers.loss(policy.value(value, features), returns)).sum()
            return loss, {"value_loss": loss}

        value, of_value, more = part("value", value_loss)
        learning = learning._replace(
            params={"actor": actor, "value": value},
            optimiser={"actor": of_actor, "value": of_value},
            target=polyak(learning.target, value, self.tau),
            scale=scale,
        )
        return learning, metrics | more
