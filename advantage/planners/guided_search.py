"""Tree search that a policy and a value guide: PUCT, and Gumbel's form of it, by the library mctx."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from advantage.environments.defect import needed
from advantage.models.interface import Model
from advantage.types import Array, Key, Pytree

Guide = Callable[[Pytree], tuple[Array, Array]]
"""From states `[N, ...]` to log-probabilities `[N, A]` and values `[N]`."""
Search = Literal["gumbel", "puct"]
IMPOSSIBLE = -1e9  # in place of the logit -inf, of which sums and means are not finite


class Searched(NamedTuple):
    """What a search finds for N roots.

    Attributes:
        action: int32 `[N]`.
        policy: `[N, A]`, the improved policy: visits of puct; of gumbel the prior, shifted by completed action values.
        value: `[N]`, of the root.
    """

    action: Array
    policy: Array
    value: Array


def guided_search(
    model: Model,
    state: Pytree,
    key: Key,
    guide: Guide,
    *,
    search: Search,
    simulations: int,
    gamma: Array | float,
    explore: bool,
) -> Searched:
    """Search from N states side by side, each with as many simulations.

    puct goes down by `argmax_a Q(s, a) + c p(a|s) sqrt(sum_b n(s, b)) / (1 + n(s, a))`; gumbel draws the actions that
    it considers at the root without replacement, and halves their number as it goes.

    Args:
        model: where it looks ahead; its sign is -1 for two players.
        state: `[N, ...]`.
        key: draws noise at the root, and what the model leaves to chance.
        guide: log-probabilities and values, from the side of the player to move.
        search: which.
        simulations: for each root.
        gamma: discount per step.
        explore: with noise at the root, and actions in proportion to visits; otherwise the best action.

    Raises:
        MissingExtra: mctx is not installed.

    Source: Silver et al. 2018, "A general reinforcement learning algorithm that masters chess, shogi, and Go through
    self-play"; Danihelka et al. 2022, "Policy improvement by planning with Gumbel".
    """
    mctx = _mctx()

    def root_or_leaf(state: Pytree) -> tuple[Array, Array]:
        logits, value = guide(state)
        allowed = model.allowed(state)
        return (logits if allowed is None else jnp.where(allowed, logits, IMPOSSIBLE)), value

    def recurrent(_: Any, key: Key, action: Array, place: tuple[Pytree, Array]) -> tuple[Any, Pytree]:
        before, ended = place
        after = model.step(before, action.astype(jnp.int32), key)
        logits, value = root_or_leaf(after.state)
        stopped = jnp.logical_or(ended, after.terminated)
        output = mctx.RecurrentFnOutput(
            reward=jnp.where(ended, 0.0, after.reward).astype(jnp.float32),
            discount=jnp.where(stopped, 0.0, jnp.float32(gamma * model.sign)),
            prior_logits=jnp.where(stopped[:, None], 0.0, logits),
            value=jnp.where(stopped, 0.0, value),
        )
        return output, (after.state, stopped)

    logits, value = root_or_leaf(state)
    root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=(state, jnp.zeros(len(value), bool)))
    allowed = model.allowed(state)
    invalid = None if allowed is None else (~allowed & allowed.any(-1, keepdims=True))
    common: Any = dict(invalid_actions=invalid)
    if search == "gumbel":
        scale = 1.0 if explore else 0.0
        found = mctx.gumbel_muzero_policy((), key, root, recurrent, simulations, gumbel_scale=scale, **common)
    else:
        noise = dict(dirichlet_fraction=0.25 if explore else 0.0, temperature=1.0 if explore else 0.0)
        found = mctx.muzero_policy((), key, root, recurrent, simulations, **noise, **common)
    policy = jnp.where(jnp.isfinite(found.action_weights), found.action_weights, 0.0)
    value = found.search_tree.summary().value
    return Searched(found.action.astype(jnp.int32), policy, value)


def _mctx() -> Any:
    """The library. Raises MissingExtra where it is not installed."""
    return needed("mctx", "The search", "planning")
