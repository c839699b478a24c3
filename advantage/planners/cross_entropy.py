"""Cross-entropy planning: draw sequences of actions, fit the distribution to the best, and draw again."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from advantage.planners.action_sequences import Sequences
from advantage.planners.imagination import PlanningProblem, mean_return
from advantage.types import Array, Key, Pytree


class CrossEntropy(NamedTuple):
    """How cross-entropy planning proceeds.

    Attributes:
        candidates: sequences drawn in an iteration.
        elites: how many of them the distribution is fitted to.
        iterations: how often.
        keep: share of the distribution that each fit keeps.
        beta: exponent of coloured noise, see `PlannedActions.sample`.
        keep_elites: the elites of an iteration are candidates of the next one too.
    """

    candidates: int
    elites: int
    iterations: int | Array
    keep: Array | float = 0.0
    beta: Array | float = 0.0
    keep_elites: bool = False


def cross_entropy_planning(
    problem: PlanningProblem, state: Pytree, key: Key, begin: Sequences, method: CrossEntropy
) -> tuple[Sequences, Array]:
    """The distribution over sequences after some iterations, and the mean return of its last elites.

    In each iteration `candidates` sequences are drawn and played, and the distribution is fitted to the best ones. It
    takes `iterations * candidates * particles * horizon` steps of the model.

    Args:
        problem: model, actions, discount and particles.
        state: where the plan begins, one state without an axis in front.
        key: draws the sequences and what the model leaves to chance.
        begin: the first distribution, `[H, ...]`.
        method: how it proceeds.

    Source: Rubinstein 1999, "The cross-entropy method for combinatorial and continuous optimization"; Hafner et al.
    2019, "Learning latent dynamics for planning from pixels", algorithm 2; coloured noise and kept elites from Pinneri
    et al. 2020, "Sample-efficient cross-entropy method for real-time planning".
    """
    actions, elites = problem.actions, method.elites

    def draw(sequences: Sequences, key: Key, size: int) -> Array:
        return actions.sample(sequences, key, size, beta=method.beta)

    def iteration(i: Array, carry: Any) -> Any:
        sequences, best, _ = carry
        key_draw, key_play = jax.random.split(jax.random.fold_in(key, i))
        drawn = draw(sequences, key_draw, method.candidates)
        if method.keep_elites:
            kept = jnp.where(i > 0, best, drawn[:, :elites])
            drawn = jnp.concatenate([kept, drawn[:, elites:]], axis=1)
        value = mean_return(problem, state, drawn, key_play)
        value, place = jax.lax.top_k(value, elites)
        best = drawn[:, place]
        return actions.refit(sequences, best, method.keep), best, value.mean()

    some = jax.eval_shape(lambda: draw(begin, key, elites))
    start = begin, jnp.zeros(some.shape, some.dtype), jnp.zeros(())
    sequences, _, value = jax.lax.fori_loop(0, method.iterations, iteration, start)
    return sequences, value
