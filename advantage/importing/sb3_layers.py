"""The layers of stable-baselines3's `MlpPolicy` by the names of their tensors, as parameters of our policies."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from advantage.importing.torch_tensors import Refused

Kind = Literal["actor-critic", "dqn", "sac", "td3"]
Layer = dict[str, np.ndarray]
METHODS = "PPO, A2C, DQN, SAC, TD3 or DDPG"


class Policy(NamedTuple):
    """What was found.

    Attributes:
        kind: which policy it is.
        params, target: parameters by the names that they have in our state of the method; of critics with an axis of
            critics in front.
        hidden: widths of the hidden layers of what acts.
        inputs, outputs: how many numbers it takes and gives; of Gaussians, two for each action.
    """

    kind: Kind
    params: dict[str, Any]
    target: dict[str, Any]
    hidden: tuple[int, ...]
    inputs: int
    outputs: int


class Reader:
    """Reads tensors by name and knows which are left."""

    def __init__(self, tensors: dict[str, np.ndarray]):
        self.tensors, self.left = tensors, set(tensors)

    def array(self, name: str) -> np.ndarray:
        """A tensor of finite numbers, float32."""
        self.left.discard(name)
        if name not in self.tensors:
            raise Refused(f"it has no tensor {name}, which an MlpPolicy has")
        array = self.tensors[name].astype(np.float32)
        if not np.isfinite(array).all():
            raise Refused(f"its tensor {name} has numbers that are not finite")
        return array

    def layer(self, name: str) -> Layer:
        """A linear layer; torch stores its weight as `[outputs, inputs]`."""
        weight, bias = self.array(f"{name}.weight"), self.array(f"{name}.bias")
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise Refused(
                f"{name} is no linear layer: its weight has shape {weight.shape}, its bias {bias.shape}"
            )
        return {"weight": weight.T, "bias": bias}

    def layers(self, name: str) -> list[Layer]:
        """The linear layers of a sequence, in order; the numbers between theirs are activations."""
        pattern = re.compile(rf"{re.escape(name)}\.(\d{{1,4}})\.weight")
        places = sorted(int(found[1]) for each in self.tensors if (found := pattern.fullmatch(each)))
        return [self.layer(f"{name}.{place}") for place in places]

    def network(self, name: str) -> dict[str, Any]:
        """The layers of a sequence, of which the last one is the head."""
        layers = self.layers(name)
        if not layers:
            raise Refused(f"it has no layers {name}: its tensors are those of no MlpPolicy of {METHODS}")
        return {"network": layers[:-1], "head": layers[-1]}

    def count(self, name: str) -> int:
        """How many parts `name0`, `name1`, ... there are."""
        return len(
            {found[1] for each in self.tensors if (found := re.match(rf"{re.escape(name)}(\d+)\.", each))}
        )


def policy_in(tensors: dict[str, np.ndarray]) -> Policy:
    """The policy that tensors belong to.

    Raises:
        Refused: they are those of no `MlpPolicy`, or of more than one.
    """
    read = Reader(tensors)
    if "action_net.weight" in tensors:
        found = _actor_critic(read)
    elif "q_net.q_net.0.weight" in tensors:
        found = _dqn(read)
    elif "actor.latent_pi.0.weight" in tensors:
        found = _sac(read)
    else:
        found = _td3(read)
    if read.left:
        raise Refused(f"it has the tensor {min(read.left)[:200]}, which an MlpPolicy does not have")
    return found


def _policy(
    kind: Kind, network: list[Layer], head: Layer, params: dict[str, Any], target: dict[str, Any]
) -> Policy:
    hidden = tuple(len(layer["bias"]) for layer in network)
    inputs = (network[0] if network else head)["weight"].shape[0]
    return Policy(kind, params, target, hidden, inputs, len(head["bias"]))


def _actor_critic(read: Reader) -> Policy:
    network, head = read.layers("mlp_extractor.policy_net"), read.layer("action_net")
    actor: dict[str, Any] = {"network": network, "head": head}
    if "log_std" in read.tensors:
        actor["log_std"] = read.array("log_std")
    critic = {"network": read.layers("mlp_extractor.value_net"), "head": read.layer("value_net")}
    return _policy("actor-critic", network, head, {"actor": actor, "critic": critic}, {})


def _dqn(read: Reader) -> Policy:
    params, target = (
        {"network": found["network"], "advantage": found["head"]}
        for found in (read.network("q_net.q_net"), read.network("q_net_target.q_net"))
    )
    return _policy("dqn", params["network"], params["advantage"], params, target)


def _sac(read: Reader) -> Policy:
    network, mean, log_std = (
        read.layers("actor.latent_pi"),
        read.layer("actor.mu"),
        read.layer("actor.log_std"),
    )
    head = {name: np.concatenate([mean[name], log_std[name]], axis=-1) for name in mean}
    params = {"actor": {"network": network, "head": head}, "action_value": _critics(read, "critic")}
    return _policy("sac", network, head, params, {"action_value": _critics(read, "critic_target")})


def _td3(read: Reader) -> Policy:
    params, target = (
        {"actor": read.network(f"actor{end}.mu"), "action_value": _critics(read, f"critic{end}")}
        for end in ("", "_target")
    )
    actor = params["actor"]
    return _policy("td3", actor["network"], actor["head"], params, target)


def _critics(read: Reader, name: str) -> dict[str, Any]:
    """The critics, with an axis of critics in front."""
    critics = [read.network(f"{name}.qf{n}") for n in range(max(1, read.count(f"{name}.qf")))]
    try:
        return jax.tree.map(lambda *parts: np.stack(parts), *critics)
    except ValueError:
        raise Refused("its critics have different layers") from None
