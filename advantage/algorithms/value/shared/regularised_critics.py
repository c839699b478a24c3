"""Critics that stand many gradient steps for each step of the environment: layer normalisation and dropout."""

from __future__ import annotations

import dataclasses

from advantage.algorithms.hyperparameters import ranged
from advantage.policies.action_value import ActionValue, Dropout, action_value
from advantage.policies.actor_critic import ActorCritic
from advantage.policies.networks import CNN, MLP
from advantage.types import Key


@dataclasses.dataclass(frozen=True)
class RegularisedCritics:
    """Fields of a method whose critics can be regularised; its policy never is.

    Source: Hiraoka et al. 2022, "Dropout Q-functions for doubly efficient reinforcement learning", section 3.
    """

    layer_norm: bool = False
    """Layer normalisation in the hidden layers of the critics, before each activation."""
    critic_dropout: float | None = ranged(None, "[0, 1)")
    """Probability with which each unit in the critics' hidden layers is left out of a gradient step, of the critics,
    their targets, and the policy; None leaves out none. With layer_norm and gradient_steps=20 this is DroQ."""


def regularised_critic(options: RegularisedCritics, policy: ActorCritic) -> ActionValue:
    """The action-value function with the architecture of a policy, and with the layer normalisation of the options.

    Raises:
        ValueError: a recurrent network, or options for hidden layers that the network has not, or that are not ours.
    """
    q = action_value(policy)
    if not options.layer_norm and options.critic_dropout is None:
        return q
    if not isinstance(q.network, MLP) or not q.network.hidden:
        given = f"layer_norm={options.layer_norm}, critic_dropout={options.critic_dropout}"
        raise ValueError(
            f"{given} is for fully connected hidden layers, and this run has {_kind(q)}; leave out layer_norm and "
            "critic_dropout, or give the network hidden layers: hidden=(256, 256), adv.MLP((256, 256))."
        )
    if not options.layer_norm:
        return q
    return dataclasses.replace(q, network=dataclasses.replace(q.network, layer_norm=True))


def _kind(q: ActionValue) -> str:
    if isinstance(q.network, MLP):
        return "none, because hidden=()"
    if isinstance(q.network, CNN):
        return "convolutions, because its observations have images"
    return f"a network of your own ({type(q.network).__name__})"


def draw_critic_dropout(
    options: RegularisedCritics, q: ActionValue, key: Key, shape: tuple[int, ...]
) -> Dropout:
    """Dropout's factors for so many passes through the critics, `[*shape, width]` for each layer; `()` without it."""
    if options.critic_dropout is None:
        return ()
    assert isinstance(q.network, MLP)
    return q.network.draw_dropout(key, shape, options.critic_dropout)
