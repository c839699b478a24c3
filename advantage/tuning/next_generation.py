"""The next generation of a population: copies of the best members, with other settings.

Jaderberg et al. 2017, "Population based training of neural networks", section 4.1.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advantage.tuning.space import Domain, Space
from advantage.types import Algorithm, Array, Key, Pytree

SHARE = 0.25  # of the members: the worst are replaced by copies of the best
FACTORS = 0.8, 1.25  # by one of which an explored value, or its distance from 1, is multiplied


class Generation(NamedTuple):
    """States and settings of all members, with a leading axis of members, and whose copy each one is, `[P]`."""

    state: Pytree
    settings: Algorithm
    parent: Array


def explored(domain: Domain, value: Array, factor: Array) -> Array:
    """A value of a domain times a factor, inside of the domain; of `log_below_one` its distance from 1."""
    low, high = domain.values
    if domain.kind == "log_below_one":
        return 1 - jnp.clip((1 - value) * factor, 1 - high, 1 - low)
    return jnp.clip(value * factor, low, high)


def next_generation(
    state: Pytree, settings: Algorithm, score: Array, key: Key, space: Space, share: float = SHARE
) -> Generation:
    """Exploit, then explore: the worst members become copies of the best, with other settings.

        parent_i   one of the best share of the members, at random, if i is among the worst share; else i
        state_i    <- state_parent(i), every leaf: parameters, optimiser, statistics
        x_i        <- f x_parent(i), f of `FACTORS` at random, if i was replaced; else as it was

    Args:
        state: the states, every leaf `[P, ...]`.
        settings: the algorithm, whose tuned floats are arrays `[P]`.
        score: what is high in good members, `[P]`.
        key: randomness.
        space: the tuned floats and the domains that they stay in.
        share: between 0 and 1/2; at least one member is replaced.

    Source: Jaderberg et al. 2017, section 4.1: truncation selection, and perturbation.
    """
    members = score.shape[0]
    count = max(1, int(share * members))
    key_parent, key_factor = jax.random.split(key)
    order = jnp.argsort(-score)
    chosen = order[jax.random.randint(key_parent, (count,), 0, count)]
    parent = jnp.arange(members).at[order[members - count :]].set(chosen)
    replaced = parent != jnp.arange(members)
    state, settings = jax.tree.map(lambda leaf: leaf[parent], (state, settings))
    factors = jax.random.choice(key_factor, jnp.array(FACTORS), (len(space), members))
    changed = {}
    for (name, domain), factor in zip(space.items(), factors, strict=True):
        value = getattr(settings, name)
        changed[name] = jnp.where(replaced, explored(domain, value, factor), value)
    values: Any = settings
    return Generation(state, dataclasses.replace(values, **changed), parent)


def write_generation(log: Path, space: Space, step: int, score: np.ndarray, made: Generation) -> None:
    """Add a row for each member to a population's log: its parent, the score it had, and its settings from now on."""
    parent, settings = np.asarray(made.parent), made.settings
    rows = []
    for place in range(len(parent)):
        row = {"step": step, "member": place, "parent": int(parent[place]), "score": float(score[place])}
        rows.append(row | {name: float(getattr(settings, name)[place]) for name in space})
    with log.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def said_generation(step: int, score: np.ndarray, parent: np.ndarray) -> str:
    """A generation in one line: the best score, and who became a copy of whom."""
    copies = [
        f"member_{n} copies member_{parent[n]}" for n in np.flatnonzero(parent != np.arange(len(parent)))
    ]
    return f"step {step:_}: best return {score.max():.2f}; {', '.join(copies)}"
