"""A policy and a value function for any observation and action space."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.policies.distributions import masked
from advantage.policies.encoder import LARGE, Encoder, encoder, network_input, split_input
from advantage.policies.heads import Bounds, Head, Spread, head, log_std_outputs
from advantage.policies.networks import (
    CNN,
    MLP,
    NATURE_LAYERS,
    SMALL_IMAGE_LAYERS,
    Activation,
    Initialisation,
    Network,
    as_network,
    linear,
    linear_init,
)
from advantage.policies.recurrent import GRU, LSTM, CustomCell, Memories, NetworkChoice, Recurrent, Sequences
from advantage.types import ActionUnits, Array, Key, Pytree

METHODS_WITH_MEMORY = (
    "ppo",
    "trpo",
    "npg",
    "a2c",
    "vpg",
    "reinforce",
    "off-policy-pg",
    "actor-critic",
    "impala",
    "drqn",
)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ActorCritic:
    """`pi(a|s)` and `V(s)`: one encoder, two networks (or a shared one), and two linear heads.

    Parameters are `{"actor": {"network", "head", "log_std"}, "critic": {"network", "head"}}`; a shared network belongs
    to the actor. `x` is the output of `Encoder.policy_input` for a batch of observations, `[N, ...]`. A recurrent
    policy takes `Sequences`; results for their steps are samples in the order of `[L * N]`. An action that a mask
    forbids has probability 0; values do not depend on masks.
    """

    encoder: Encoder
    head: Head
    network: Network | Recurrent
    shared: bool = False
    initialisation: Initialisation = "orthogonal"

    def init(self, key: Key, log_std: Array | float) -> Pytree:
        """Draw parameters; the last layers have gain 0.01 (actor, nearly uniform) and 1 (critic)."""
        key_networks, key_heads = jax.random.split(key)
        x = self.encoder.encode(self.encoder.example())
        count = 1 if self.shared else 2
        keys = jax.random.split(key_networks, count)
        first, *others = (self.network.init(keys[n], x) for n in range(count))
        width = jax.eval_shape(self._features_of_example, first, x).shape[-1]
        shapes = [(width, self.head.num_outputs), (width, 1)]
        actor_head, critic_head = linear_init(key_heads, shapes, [0.01, 1.0], self.initialisation)
        outputs = np.array(log_std_outputs(self.head), np.float32)
        actor_head["bias"] = actor_head["bias"] + log_std * outputs
        spread = jnp.full(self.head.num_log_std, log_std, jnp.float32)
        actor = {"network": first, "head": actor_head, "log_std": spread}
        critic = {"head": critic_head} if self.shared else {"network": others[0], "head": critic_head}
        return {"actor": actor, "critic": critic}

    @property
    def is_recurrent(self) -> bool:
        return isinstance(self.network, Recurrent)

    def initial_memory(self) -> Pytree:
        """The memory of one environment at the beginning of an episode; `()` without recurrence."""
        return self.network.initial() if isinstance(self.network, Recurrent) else ()

    def step(self, actor: Pytree, x: Pytree, memory: Pytree) -> tuple[Any, Pytree]:
        """`pi(.|s)` for one step of every environment: `-> distribution, the next memory`."""
        if not isinstance(self.network, Recurrent):
            return self.distribution(actor, x), memory
        x, mask = split_input(x)
        features, memory = self.network.apply(actor["network"], x, memory)
        return self._distribution(actor, features, mask), memory

    def distribution(self, actor: Pytree, x: Pytree) -> Any:
        """`pi(.|s)` from the actor's parameters."""
        if isinstance(x, Sequences):
            mask = split_input(x.x)[1]
            features = self._unrolled(actor["network"], x, x.memory.actor)
            return self._distribution(actor, features, None if mask is None else _merge(mask))
        x, mask = split_input(x)
        return self._distribution(actor, self._apply(actor["network"], x), mask)

    def value(self, params: Pytree, x: Pytree) -> Array:
        """`V(s)`, `[N]`."""
        network = params["actor" if self.shared else "critic"]["network"]
        if isinstance(x, Sequences):
            memory = x.memory.actor if self.shared else x.memory.critic
            return self._value(params, self._unrolled(network, x, memory))
        return self._value(params, self._apply(network, network_input(x)))

    def look(self, params: Pytree, x: Sequences, next_x: Pytree) -> Looked:
        """Distributions, values and memories of a recurrent policy in a rollout with one sequence per environment.

        Args:
            params: actor and critic; without a critic all values are 0.
            x: the rollout's steps.
            next_x: the encoded true next observations, `[T, B, ...]`.
        """
        assert isinstance(self.network, Recurrent)
        actor, (seen, mask) = params["actor"], split_input(x.x)
        acted = self.network.unroll(actor["network"], seen, x.begins, x.memory.actor)
        distribution = self._distribution(
            actor, _merge(acted.features), None if mask is None else _merge(mask)
        )
        if "critic" not in params:
            last, zeros = jax.tree.map(lambda leaf: leaf[-1], acted.after), jnp.zeros(x.begins.size)
            return Looked(distribution, zeros, zeros, Memories(acted.before, ()), Memories(last, ()))
        of_value, judged = params["actor" if self.shared else "critic"]["network"], acted
        if not self.shared:
            judged = self.network.unroll(of_value, seen, x.begins, x.memory.critic)
        following, _ = self.network.apply(of_value, network_input(next_x), judged.after)
        last = jax.tree.map(lambda leaf: leaf[-1], (acted.after, judged.after))
        before = Memories(acted.before, () if self.shared else judged.before)
        return Looked(
            distribution=distribution,
            value=self._value(params, _merge(judged.features)),
            next_value=self._value(params, _merge(following)),
            before=before,
            last=Memories(last[0], () if self.shared else last[1]),
        )

    def _apply(self, network: Pytree, x: Pytree) -> Array:
        assert not isinstance(self.network, Recurrent)
        return self.network.apply(network, x)

    def _unrolled(self, network: Pytree, x: Sequences, memory: Pytree) -> Array:
        assert isinstance(self.network, Recurrent)
        return _merge(self.network.unroll(network, network_input(x.x), x.begins, memory).features)

    def _features_of_example(self, network: Pytree, x: Pytree) -> Array:
        if isinstance(self.network, Recurrent):
            memory = jax.tree.map(lambda leaf: leaf[None], self.network.initial())
            return self.network.apply(network, x, memory)[0]
        return self.network.apply(network, x)

    def _distribution(self, actor: Pytree, features: Array, mask: Array | None) -> Any:
        distribution = self.head.distribution(linear(actor["head"], features), actor["log_std"])
        return distribution if mask is None else masked(distribution, mask)

    def _value(self, params: Pytree, features: Array) -> Array:
        return linear(params["critic"]["head"], features)[..., 0]


class Looked(NamedTuple):
    """Distributions, values and memories of a recurrent policy in a rollout `[T, B]`.

    Attributes:
        distribution, value, next_value: one for each step, `[T * B]`; `next_value` is the value of the true next
            observation, also if the episode ended.
        before: the memories before each step, `[T, B, ...]`.
        last: the memories after the last step, `[B, ...]`.
    """

    distribution: Any
    value: Array
    next_value: Array
    before: Memories
    last: Memories


def _merge(x: Array) -> Array:
    """`[L, N, ...] -> [L * N, ...]`."""
    return x.reshape(-1, *x.shape[2:])


def choose_network(
    network: NetworkChoice,
    observation_space: gymnasium.Space,
    hidden: tuple[int, ...],
    activation: Activation,
    initialisation: Initialisation,
    memory_span: int | None = None,
) -> Network | Recurrent:
    """The user's network; else an MLP, or convolutions if the observation has an image.

    With "gru" and "lstm", a cell of the last width in `hidden` follows the other layers or the convolutions; a
    `memory_span` is for them only.
    """
    if memory_span is not None and not isinstance(network, str):
        raise ValueError(
            f"memory_span={memory_span} is for the gates of a recurrent network: use network='gru' or 'lstm', or "
            "leave it out."
        )
    images = encoder(observation_space).images
    if isinstance(network, str):
        if network not in ("gru", "lstm") or not hidden:
            raise ValueError(
                f"network={network!r} with hidden={hidden} is not allowed; use network='gru' or 'lstm' with the "
                "width of its memory last in hidden, such as hidden=(64,), or a network of your own."
            )
        *before, size = hidden
        base = feed_forward(
            choose_network(None, observation_space, tuple(before), activation, initialisation)
        )
        cell = (GRU if network == "gru" else LSTM)(size, initialisation, memory_span)
        return Recurrent(cell, base if before or images else None)
    if type(network) is tuple and len(network) == 3 and all(map(callable, network)):
        return Recurrent(CustomCell(*network))
    if network is not None:
        return as_network(network)
    if not images:
        return MLP(hidden, activation, initialisation)
    small = min(min(image.height_width) for image in images) < LARGE
    return CNN(SMALL_IMAGE_LAYERS if small else NATURE_LAYERS, initialisation=initialisation)


def feed_forward(network: Network | Recurrent) -> Network:
    """The network itself. Raises ValueError for a recurrent network."""
    if isinstance(network, Recurrent):
        raise ValueError(
            f"A recurrent network ({type(network.cell).__name__}) needs a method that learns from whole sequences: "
            f"{', '.join(METHODS_WITH_MEMORY)}. This method learns from single steps or has an action-value function; "
            "use one of those methods, or stack observations: frame_stack=4, --frame-stack 4."
        )
    return network


def actor_critic(
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    network: Network | Recurrent,
    *,
    shared: bool,
    initialisation: Initialisation,
    bounds: Bounds,
    spread: Spread,
    units: ActionUnits = "bounds",
) -> ActorCritic:
    """The actor and critic for a pair of spaces. Raises ValueError for a space that is not supported."""
    parts = encoder(observation_space), head(action_space, bounds, spread, units)
    return ActorCritic(*parts, network, shared, initialisation)
