"""Pattern search: Hooke & Jeeves 1961, and compass search."""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import jax.numpy as jnp

from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.search.ranking import nonfinite_to_inf
from advantage.machine import refuse_large
from advantage.types import Array, Key


class CompassState(NamedTuple):
    """The state of compass search: its best point `[d]`, its cost, the step, and whether the cost is known."""

    mean: Array
    cost: Array
    step: Array
    known: Array


class HookeJeevesState(NamedTuple):
    """The state of the search of Hooke & Jeeves.

    Attributes:
        mean, cost: the base point psi, `[d]`, and S(psi).
        step: Delta.
        point, point_cost: phi, `[d]`, the point reached by the exploratory moves, and S(phi).
        coordinate: the coordinate to try next.
        trial: what to try: 0 phi itself, 1 a step up, 2 a step down.
        from_base: whether these exploratory moves began at psi, not at the end of a pattern move.
    """

    mean: Array
    cost: Array
    step: Array
    point: Array
    point_cost: Array
    coordinate: Array
    trial: Array
    from_base: Array


@hyperparameters
@dataclasses.dataclass(frozen=True)
class PatternSearch:
    """Pattern search: steps along the coordinates from the best point so far, which shrink when none helps.

    Hooke & Jeeves, one candidate at a time, with the base point psi, S the cost, theta the base point before psi:

        1:  phi <- psi;  explore(phi);  if S(phi) < S(psi) go to 2
            stop if Delta < minimum_step;  Delta <- contraction * Delta;  go to 1
        2:  theta, psi <- psi, phi;  phi <- 2 psi - theta;  explore(phi)         (pattern move)
            if S(phi) < S(psi) go to 2, else go to 1
        explore(phi):  for each coordinate k, phi <- phi + Delta e_k if that is better,
                                         else phi <- phi - Delta e_k if that is better

    so a point at the end of a pattern move may be worse than psi if exploring from it finds a better one.

    Compass search, 2 d candidates at once:

        x'  <- the best of x ± Delta e_k, k = 1..d
        x, Delta  <- x', expansion * Delta             if S(x') < S(x)
                     x, contraction * Delta            else

    Both stop moving, with step 0, once no step helps and Delta < minimum_step. Where neither a step up nor a step down
    helps in any coordinate, a cost whose gradient has the Lipschitz constant L has |∇S(x)| <= sqrt(d) L Delta / 2:
    `spread` is Delta. No cost is evaluated again, so with noise a lucky point is kept; let candidates play many
    episodes, or use common random numbers.

    Departures from the papers: compass search takes the first of equally good candidates, and its first poll has x0 in
    place of x0 + Delta e_1 and does not change Delta.

    Source: Hooke & Jeeves 1961, "'Direct search' solution of numerical and statistical problems", appendix; Kolda,
    Lewis & Torczon 2003, "Optimization by direct search", sections 1.1 and 3.
    """

    variant: Literal["hooke-jeeves", "compass"] = "hooke-jeeves"
    """One candidate per generation and pattern moves, or a poll of all 2 d neighbours."""
    step: float = ranged(0.5, "(0, inf)")
    """Initial step Delta along a coordinate."""
    contraction: float = ranged(0.5, "(0, 1)")
    """Factor of Delta when no step helps."""
    expansion: float | None = ranged(None, "[1, inf)")
    """Factor of Delta in compass search after a step that helped; None keeps Delta."""
    minimum_step: float = ranged(1e-8, "[0, inf)")
    """The search ends when no step helps and Delta is below this."""

    def __post_init__(self):
        check(self)
        if self.expansion is not None and self.variant != "compass":
            raise ValueError(
                f"expansion={self.expansion} with variant={self.variant!r} is not allowed: its steps never grow; leave "
                "expansion out, or use variant='compass'."
            )

    def population(self, dimension: int) -> int:
        """How many candidates an `ask` returns: 1, or with compass search 2 `dimension`."""
        return 2 * dimension if self.variant == "compass" else 1

    def begin(self, x0: Array) -> CompassState | HookeJeevesState:
        """The initial state. Raises ValueError for a poll that memory cannot hold."""
        cost, step = jnp.full((), jnp.inf, x0.dtype), jnp.full((), self.step, x0.dtype)
        if self.variant == "compass":
            size = 4 * x0.size**2 * x0.dtype.itemsize  # the candidates and their steps
            refuse_large(f"A poll along {x0.size:,} parameters", size, "use variant='hooke-jeeves'")
            return CompassState(x0, cost, step, jnp.zeros((), bool))
        zero = jnp.zeros((), jnp.int32)
        return HookeJeevesState(x0, cost, step, x0, cost, zero, zero, jnp.ones((), bool))

    def ask(self, state: CompassState | HookeJeevesState, key: Key) -> Array:
        """The next point to try, `[1, d]`, or all neighbours, `[2 d, d]`; the key is not used."""
        if isinstance(state, HookeJeevesState):
            side = jnp.asarray([0, 1, -1], state.step.dtype)[state.trial]
            return state.point.at[state.coordinate].add(side * state.step)[None]
        step = state.step * jnp.eye(state.mean.size, dtype=state.mean.dtype)
        return state.mean + jnp.concatenate([step.at[0, 0].multiply(state.known), -step])

    def tell(
        self, state: CompassState | HookeJeevesState, candidates: Array, cost: Array
    ) -> CompassState | HookeJeevesState:
        """Move to a better point, or make the steps smaller."""
        cost = nonfinite_to_inf(cost).astype(state.cost.dtype)
        smaller = jnp.where(state.step < self.minimum_step, 0, self.contraction * state.step)
        if isinstance(state, HookeJeevesState):
            return _hooke_jeeves(state, candidates[0], cost[0], smaller)
        best = jnp.argmin(cost)
        better = cost[best] < state.cost
        larger = state.step if self.expansion is None else self.expansion * state.step
        return CompassState(
            jnp.where(better, candidates[best], state.mean),
            jnp.where(better, cost[best], state.cost),
            jnp.where(state.known, jnp.where(better, larger, smaller), state.step),
            jnp.ones((), bool),
        )

    def spread(self, state: CompassState | HookeJeevesState) -> Array:
        """The step Delta."""
        return state.step


def _hooke_jeeves(state: HookeJeevesState, x: Array, cost: Array, smaller: Array) -> HookeJeevesState:
    """What to try after the cost of the last trial `x`."""
    itself = state.trial == 0
    base_cost = jnp.where(itself & state.from_base, cost, state.cost)  # the cost of x0 is evaluated once
    better = itself | (cost < state.point_cost)
    point, point_cost = jnp.where(better, x, state.point), jnp.where(better, cost, state.point_cost)
    turn = ~better & (state.trial == 1)
    coordinate = jnp.where(itself | turn, state.coordinate, state.coordinate + 1)
    explored = coordinate == x.size
    moves = explored & (point_cost < base_cost)
    returns = explored & ~moves
    return HookeJeevesState(
        mean=jnp.where(moves, point, state.mean),
        cost=jnp.where(moves, point_cost, base_cost),
        step=jnp.where(returns & state.from_base, smaller, state.step),
        point=jnp.where(moves, 2 * point - state.mean, jnp.where(returns, state.mean, point)),
        point_cost=jnp.where(returns, base_cost, point_cost),
        coordinate=jnp.where(explored, 0, coordinate),
        trial=jnp.where(moves, 0, jnp.where(turn, 2, 1)).astype(state.trial.dtype),
        from_base=jnp.where(explored, ~moves, state.from_base),
    )
