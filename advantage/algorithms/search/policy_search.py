"""A search for a policy: its parameters are the vector, minus its return is the cost."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from advantage.algorithms.search.options import nonfinite_to_inf
from advantage.policies.deterministic import Deterministic, Scoring, deterministic, flatten, unflatten
from advantage.running_moments import Moments, Normaliser, moments_init, moments_merge, normaliser
from advantage.types import Array, Key, Played, Pytree, Spec


class SearchState(NamedTuple):
    """Everything that a search knows.

    Attributes:
        policy: what a vector is the parameters of; static.
        search: the optimiser's own state.
        best: the candidate with the highest mean return of all generations, `[d]`.
        best_return: that return; -inf before the first generation.
        observations: running statistics of what candidates saw.
        evaluations, episodes, step: candidates judged, episodes and environment steps played, uint32.
        total_timesteps: the budget, uint32.
    """

    policy: Deterministic | Scoring
    search: Any
    best: Array
    best_return: Array
    observations: Moments
    evaluations: Array
    episodes: Array
    step: Array
    total_timesteps: Array


class SearchActor(NamedTuple):
    """What acts: a policy, its parameters, and the statistics that it sees through."""

    policy: Deterministic | Scoring
    params: Pytree
    normaliser: Normaliser | None


def init(algorithm: Any, key: Key, spec: Spec) -> SearchState:
    """The first state: drawn parameters as the start of the search; an algorithm's `init`.

    Raises:
        ValueError: a space that no policy covers.
    """
    policy = deterministic(
        spec.observation_space,
        spec.action_space,
        algorithm.network,
        algorithm.hidden,
        algorithm.activation,
        algorithm.initialisation,
        algorithm.action_bounds,
        spec.action_units,
    )
    start = flatten(policy.init(key))
    size = policy.num_continuous if algorithm.normalize_observation else 0
    zero = jnp.zeros((), jnp.uint32)
    return SearchState(
        policy,
        algorithm.begin(start),
        start,
        jnp.full((), -jnp.inf),
        moments_init((size,)),
        zero,
        zero,
        zero,
        jnp.asarray(spec.total_timesteps, jnp.uint32),
    )


def actor(algorithm: Any, state: SearchState) -> SearchActor:
    """The search's mean, or its best candidate; an algorithm's `actor`."""
    vector = state.best if algorithm.play == "best" else state.search.mean.astype(state.best.dtype)
    see = normaliser(state.observations, algorithm.clip_observation)
    params = unflatten(state.policy, vector)
    return SearchActor(state.policy, params, see if algorithm.normalize_observation else None)


def candidate(algorithm: Any, actor: SearchActor, vector: Array) -> SearchActor:
    """The same actor with a candidate's parameters; an algorithm's `candidate`."""
    return actor._replace(params=unflatten(actor.policy, vector))


def noise(algorithm: Any, actor: SearchActor, key: Key, shape: tuple[int, ...]) -> Array:
    """None is consumed; an algorithm's `noise`."""
    return jnp.zeros(shape, jnp.float32)


def greedy(algorithm: Any, actor: SearchActor, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
    """The policy's action: `-> action, memory`; an algorithm's `greedy`."""
    return actor.policy.action(actor.params, obs, actor.normaliser), memory


def act(
    algorithm: Any, actor: SearchActor, obs: Pytree, memory: Pytree, noise: Array
) -> tuple[Pytree, Pytree, Pytree]:
    """The same, for nothing is left to chance: `-> action, memory, extras`; an algorithm's `act`."""
    return *greedy(algorithm, actor, obs, memory), ()


def seen(algorithm: Any, actor: SearchActor, obs: Pytree) -> Array:
    """What statistics take of a batch of observations, less the mean so far, `[m, c]`; an algorithm's `seen`."""
    if actor.normaliser is None:
        return np.zeros((1, 0), np.float32)
    x = actor.policy.continuous(obs)
    return x.reshape(-1, actor.policy.num_continuous) - actor.normaliser.mean


def propose(algorithm: Any, state: SearchState, key: Key) -> Array:
    """The candidates of a generation, `[n, d]`; an algorithm's `propose`."""
    return algorithm.ask(state.search, key).astype(state.best.dtype)


def learn(
    algorithm: Any, state: SearchState, candidates: Array, played: Played
) -> tuple[SearchState, dict[str, Array]]:
    """Tell the optimiser what the candidates earned: `-> state, metrics`; an algorithm's `learn`.

    The cost of a candidate is minus its mean return. The statistics under which a generation acted are merged with
    what it saw after it was judged, for the next one to use.
    """
    cost = nonfinite_to_inf(-played.returns)
    search = algorithm.tell(state.search, candidates, cost)
    first = jnp.argmin(cost)
    better = -cost[first] > state.best_return
    finite = jnp.isfinite(cost)
    count = jnp.maximum(finite.sum(), 1)
    mean = jnp.where(finite, played.returns, 0).sum() / count
    variance = jnp.where(finite, jnp.square(played.returns - mean), 0).sum() / count
    observations = state.observations
    if algorithm.normalize_observation:
        mean_seen = observations.mean.value + played.seen_mean
        observations = moments_merge(observations, played.seen, mean_seen, played.seen_variance)
    learned = state._replace(
        search=search,
        best=jnp.where(better, candidates[first], state.best),
        best_return=jnp.where(better, -cost[first], state.best_return),
        observations=observations,
        evaluations=state.evaluations + jnp.uint32(len(cost)),
        episodes=state.episodes + played.episodes,
        step=state.step + played.steps,
    )
    metrics = {
        "return_mean": mean,
        "return_std": jnp.sqrt(variance),
        "return_best": -cost[first],
        "best_return": learned.best_return,
        "spread": algorithm.spread(search),
        "evaluations": learned.evaluations.astype(jnp.float32),
        "episodes": learned.episodes.astype(jnp.float32),
    }
    return learned, metrics
