"""Describe how a policy uses an environment's spaces: the axes of images, the units of actions."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium import spaces

from advantage.environments.spaces import action_scale, in_units_of_bounds, leaf_spaces
from advantage.policies.actor_critic import choose_network
from advantage.policies.encoder import Leaf, encoder
from advantage.policies.networks import CNN
from advantage.types import ActionUnits

LARGEST_LAYER = 20_000  # inputs of a dense layer; a larger layer takes most of the training time


def describe_interface(
    observation_space: gymnasium.Space, action_space: gymnasium.Space, units: ActionUnits
) -> list[str]:
    """A sentence for each image, and for each action Box whose units differ from the policy's."""
    pictures = [_describe_picture(leaf) for leaf in encoder(observation_space).images]
    actions = [
        _describe_action(f"action{_place(path)}", space, units)
        for path, space in leaf_spaces(action_space)
        if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    ]
    return pictures + [text for text in actions if text]


def large_layers(observation_space: gymnasium.Space) -> list[str]:
    """A sentence if the default network would have a dense layer of more than `LARGEST_LAYER` inputs."""
    encode = encoder(observation_space)
    width = sum(leaf.width for leaf in encode.leaves if leaf.kind != "image")
    network = choose_network(None, observation_space, (64,), "tanh", "orthogonal")
    if isinstance(network, CNN):
        width += sum(network.features_of(*leaf.height_width) for leaf in encode.images)
        remedy = "make the image smaller with gymnasium.wrappers.ResizeObservation"
    else:
        remedy = (
            "leave out what is not needed, or give images as a Box of height, width and channels with finite bounds, "
            "so that the network has convolutions"
        )
    if width <= LARGEST_LAYER:
        return []
    return [
        f"The first dense layer takes {width:,} numbers of each observation, which costs memory and time; {remedy}, or "
        "give a network of your own."
    ]


def _place(path: tuple) -> str:
    return "".join(f"[{step!r}]" for step in path)


def _describe_picture(leaf: Leaf) -> str:
    height, width = leaf.height_width
    axes = f"axes {leaf.height_axis} and {leaf.height_axis + 1} of {leaf.shape}"
    others = " and ".join(map(str, leaf.channel_axes))
    channels = f"{leaf.channels} channel{'s' * (leaf.channels > 1)}"
    if others:
        channels += f" ({'axis' if len(leaf.channel_axes) == 1 else 'axes'} {others})"
    low, high = min(leaf.low), max(leaf.high)
    return (
        f"observation{_place(leaf.path)} is taken as an image of {height} x {width} pixels ({axes}) with {channels}, "
        f"scaled from {low:g}..{high:g} to 0..1."
    )


def _describe_action(name: str, space: spaces.Box, units: ActionUnits) -> str:
    """The sentence about an action Box; empty if the policy's units are the environment's."""
    if units == "unclipped":
        return f"{name}: the environment gets what the policy draws, beyond the bounds too (--action-bounds none)."
    middle, half = action_scale(space, units)
    if not (middle.any() or (half != 1).any()):
        return ""
    scaled = in_units_of_bounds(space, units)
    low, high = (_range(bound[scaled]) for bound in (space.low, space.high))
    count = f"{int(scaled.sum())} of {scaled.size} numbers" if not scaled.all() else "the policy"
    verb = "are" if not scaled.all() else "acts"
    return (
        f"{name}: {count} {verb} in units of the bounds: -1 is {low}, 0 is {_range(middle[scaled])}, 1 is {high} "
        "(--action-units raw takes them as they are)."
    )


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
