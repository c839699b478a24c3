"""A policy on the code of an autoencoder: first draw what is seen again, then learn from the code what to do."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from advantage.algorithms.clock import advance_clock, clock_init, progress
from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged, schedule_value
from advantage.algorithms.named_class import named_class
from advantage.algorithms.planning.shared.learner_within import learn_if_begun
from advantage.algorithms.policy_gradient.shared.options import UnitsOption
from advantage.algorithms.policy_gradient.shared.replayed_critic import repeat, replay_of
from advantage.algorithms.value.shared.gradient_steps import adam_init, adam_step
from advantage.algorithms.value.shared.options import check_budget
from advantage.models.autoencoder import Autoencoder, autoencoder
from advantage.policies.networks import Activation
from advantage.replay.ring import Replay, replay_add, uniform_draw
from advantage.replay.sequences import sequences_at
from advantage.types import Algorithm, Array, Clock, Key, Pytree, Rollout, Spec

LEARNERS = {"ppo": "policy_gradient.ppo:PPO", "sac": "value.sac:SAC"}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CodedState:
    """The training state.

    Attributes:
        networks: shapes; static.
        params, optimiser: of the autoencoder.
        replay: what was seen.
        learner: the state of the method that learns from codes.
        clock: the share of the budget spent.
    """

    networks: Autoencoder
    params: Pytree
    optimiser: Pytree
    replay: Replay
    learner: Pytree
    clock: Clock


class CodedActor(NamedTuple):
    """What acting needs: the autoencoder with its parameters, and the learner's actor."""

    networks: Autoencoder
    params: Pytree
    learner: Pytree


@hyperparameters
@dataclasses.dataclass(frozen=True)
class AutoencoderPolicy(UnitsOption):
    """Learn an autoencoder of observations, and a policy from its codes.

        collect learning_starts steps; then, once, pretraining_steps times:
            d, e  <- Adam on mean |x - d(e(x))|^2 / 2 of stored observations x, and beta KL if it is variational
        after every n_steps in each environment:
            the learner takes an update, with e(x) in place of each observation x
            autoencoder_steps times: the same step of d and e

    With pretraining_steps above 0 and autoencoder_steps 0 the code is learned before the policy and stays; with both it
    goes on along with it; with pretraining_steps 0 it begins along with it. The learner is PPO or SAC with the options
    below, and its gradients never reach e.

    Source: Lange & Riedmiller 2010, "Deep auto-encoder neural networks in reinforcement learning"; Ha & Schmidhuber
    2018, "World models", for the variational form.
    """

    learner: Literal["ppo", "sac"] = "ppo"
    """The method that learns from codes."""
    latent_size: int = ranged(32, "[1, inf)")
    """Length of a code."""
    variational: bool = False
    """Codes are drawn while the autoencoder learns, and kept near standard normals."""
    beta: float = ranged(1.0, "[0, inf)")
    """Weight of the divergence from standard normals."""
    pretraining_steps: int = ranged(2000, "[0, inf)")
    """Gradient steps of the autoencoder before the learner begins."""
    autoencoder_steps: int = ranged(0, "[0, inf)")
    """Gradient steps of the autoencoder after every rollout from then on."""
    autoencoder_batch_size: int = ranged(128, "[1, inf)")
    """Observations in a gradient step of the autoencoder."""
    autoencoder_learning_rate: float | Schedule = ranged(1e-3, "[0, inf)")
    """Adam's step size for the autoencoder; a number or a schedule of progress."""
    autoencoder_hidden: tuple[int, ...] = ranged((128,), "[1, inf)")
    """Widths of the hidden layers of the autoencoder; images have convolutions besides."""
    learning_starts: int = ranged(5000, "[0, inf)")
    """Environment steps before anything is learned."""
    buffer_size: int = ranged(20_000, "[1, inf)")
    """Number of observations that the autoencoder learns from, the newest ones; SAC keeps as many transitions."""
    n_steps: int = ranged(128, "[1, inf)")
    """Steps taken in each environment for one update."""
    gamma: float = ranged(0.99, "[0, 1]")
    """Discount per step."""
    learning_rate: float | Schedule = ranged(3e-4, "[0, inf)")
    """The learner's step size; a number or a schedule of progress."""
    batch_size: int = ranged(64, "[1, inf)")
    """Samples in a gradient step of the learner."""
    gradient_steps: int = ranged(128, "[1, inf)")
    """Gradient steps of SAC for each n_steps of one environment."""
    hidden: tuple[int, ...] = ranged((64, 64), "[1, inf)")
    """Widths of the hidden layers of the learner's networks."""
    activation: Activation = "relu"
    """Activation after each hidden layer."""

    def __post_init__(self):
        check(self)
        if self.learner == "sac" and self.autoencoder_steps:
            raise ValueError(
                f"autoencoder_steps={self.autoencoder_steps} is not allowed with learner=sac, whose buffer would hold "
                "codes of earlier autoencoders; use 0, and more pretraining_steps, or learner=ppo."
            )
        if not self.pretraining_steps + self.autoencoder_steps:
            raise ValueError(
                "pretraining_steps=0 and autoencoder_steps=0 never learn a code; set one of them above 0."
            )

    def init(self, key: Key, spec: Spec) -> CodedState:
        """Draw the initial training state.

        Raises:
            ValueError: observations with an action mask, actions that the learner does not take, learning that
                starts after the budget, or a replay buffer that does not fit into memory.
        """
        check_budget(self, spec)
        key_code, key_learner = jax.random.split(key)
        networks = autoencoder(
            spec.observation_space,
            self.autoencoder_hidden,
            self.activation,
            self.latent_size,
            variational=self.variational,
        )
        coded = dataclasses.replace(spec, observation_space=networks.space, frame_stack=1, world=None)
        params = networks.init(key_code)
        nothing = jax.ShapeDtypeStruct((), jnp.int8)
        return CodedState(
            networks,
            params,
            adam_init(params),
            replay_of(spec, nothing, self.buffer_size),
            self._learner().init(key_learner, coded),
            clock_init(spec.total_timesteps),
        )

    def actor(self, state: CodedState) -> CodedActor:
        """The autoencoder, and the learner's actor."""
        return CodedActor(state.networks, state.params, self._learner().actor(state.learner))

    def initial_memory(self, actor: CodedActor) -> Pytree:
        return self._learner().initial_memory(actor.learner)

    def noise(self, actor: CodedActor, key: Key, shape: tuple[int, ...]) -> Pytree:
        return self._learner().noise(actor.learner, key, shape)

    def act(
        self, actor: CodedActor, obs: Pytree, memory: Pytree, noise: Pytree
    ) -> tuple[Pytree, Pytree, Pytree]:
        """What the learner does with the codes: `-> action, memory, extras`."""
        return self._learner().act(actor.learner, actor.networks.code(actor.params, obs), memory, noise)

    def greedy(self, actor: CodedActor, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        """What the learner holds best: `-> action, memory`."""
        return self._learner().greedy(actor.learner, actor.networks.code(actor.params, obs), memory)

    def update(self, state: CodedState, rollout: Rollout, key: Key) -> tuple[CodedState, dict[str, Any]]:
        """Let the learner learn from codes, and the autoencoder from observations: `-> state, metrics`.

        The rollout is coded as it was while acting, so that the learner's first ratio is 1.
        """
        key_code, key_learn = jax.random.split(key)
        size = rollout.reward.size
        seen = rollout._replace(action=jnp.zeros(rollout.reward.shape, jnp.int8))
        replay = replay_add(state.replay, seen)
        clock = advance_clock(state.clock, size)
        starts = jnp.uint32(self.learning_starts)
        began, begins = state.clock.step >= starts, clock.step >= starts
        along = jnp.where(began, self.autoencoder_steps, self.pretraining_steps)
        count = jnp.where(begins, along, 0)
        params, optimiser, metrics = self._learn_code(state, replay, key_code, count)

        learner = dataclasses.replace(state.learner, clock=state.clock)

        def learn() -> tuple[Pytree, dict[str, Any]]:
            return self._learner().update(learner, self._coded(state, rollout), key_learn)

        after, learned = learn_if_begun(began, learn, learner)
        state = CodedState(state.networks, params, optimiser, replay, after, clock)
        return state, metrics | learned

    def _learn_code(
        self, state: CodedState, replay: Replay, key: Key, count: Array
    ) -> tuple[Pytree, Pytree, dict[str, Any]]:
        rate = schedule_value(self.autoencoder_learning_rate, progress(state.clock))

        def step(carry: tuple[Pytree, Pytree], key: Key) -> tuple[tuple[Pytree, Pytree], dict[str, Array]]:
            key_draw, key_loss = jax.random.split(key)
            index = uniform_draw(replay, key_draw, self.autoencoder_batch_size)
            obs = jax.tree.map(lambda x: x[0], sequences_at(replay, index, length=1).obs)

            def loss(params: Pytree) -> tuple[Array, dict[str, Array]]:
                return state.networks.loss(params, obs, key_loss, self.beta)

            params, optimiser, metrics = adam_step(loss, *carry, rate)
            return (params, optimiser), metrics

        (params, optimiser), metrics = repeat(step, (state.params, state.optimiser), count, key)
        return params, optimiser, metrics

    def _coded(self, state: CodedState, rollout: Rollout) -> Rollout:
        """The rollout with codes for observations."""
        obs, next_obs = (state.networks.code(state.params, part) for part in (rollout.obs, rollout.next_obs))
        return rollout._replace(obs=obs, next_obs=next_obs)

    def _learner(self) -> Algorithm:
        make: Any = named_class(LEARNERS[self.learner])
        replayed = dict(buffer_size=self.buffer_size, learning_starts=0, gradient_steps=self.gradient_steps)
        return make(
            n_steps=self.n_steps,
            gamma=self.gamma,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            hidden=self.hidden,
            activation=self.activation,
            action_units=self.action_units,
            **(replayed if self.learner == "sac" else {}),
        )
