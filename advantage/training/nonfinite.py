"""Metrics and parameters that are not finite: where they are, and what a user can do about it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from advantage.algorithms.playable import Playable
from advantage.algorithms.policy_gradient.shared.state import PolicyState
from advantage.algorithms.registry import hyperparameters_of
from advantage.types import Iterated


class NonFiniteUpdate(FloatingPointError):
    """A loss or a gradient became NaN or infinite; the update was not applied."""


class NonFinite(NamedTuple):
    """The names of the values that are not finite, the position of their seed, and their row of metrics."""

    place: int
    row: int
    names: str


def find_nonfinite(result: Iterated, num_seeds: int) -> NonFinite | None:
    """The first metric or parameter that is not finite. Parameters are checked because metrics may not show them."""
    finite = {name: np.isfinite(np.ma.filled(x, 0.0)) for name, x in result.metrics.items()}
    wrong = {name: ~right for name, right in finite.items() if not right.all()}
    if wrong:
        place, row = np.argwhere(np.any(list(wrong.values()), axis=0))[0]
        names = ", ".join(sorted(name for name, bad in wrong.items() if bad[place, row]))
        return NonFinite(int(place), int(row), names)
    params = result.state.params if isinstance(result.state, PolicyState) else ()
    for leaf in jax.tree.leaves(params):
        if not np.isfinite(leaf).all():
            return NonFinite(
                int(np.argwhere(~np.isfinite(leaf))[0][0]) if num_seeds > 1 else 0, -1, "parameters"
            )
    return None


def remedy(algorithm: Playable) -> str:
    """A sentence that names the options which keep an algorithm's updates small."""
    options = hyperparameters_of(algorithm)
    smaller = ("learning_rate", "critic_learning_rate", "target_kl")
    lower = [name for name in smaller if options.get(name) is not None]
    bound = [name for name in ("max_grad_norm", "target_kl") if options.get(name, ()) is None]
    parts = [f"lower {' or '.join(lower)}"] if lower else []
    parts += [f"set {' or '.join(bound)}"] if bound else []
    advice = ", or ".join(parts) or "check the rewards and observations of the environment"
    return advice[0].upper() + advice[1:] + "."
