"""Policy search: the vector is the policy's parameters, the cost is minus its return."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, cast

import jax.numpy as jnp
import numpy as np

from advantage.algorithms.clock import advance_clock, clock_init
from advantage.algorithms.hyperparameters import check, hyperparameters, ranged
from advantage.algorithms.search.optimiser import HostOptimiser, Optimiser, OptimiserState, check_optimiser
from advantage.algorithms.search.random_search import AugmentedRandomSearch
from advantage.algorithms.search.ranking import nonfinite_to_inf
from advantage.policies.actor_critic import Bounds
from advantage.policies.deterministic import Deterministic, Scoring, deterministic, flatten, unflatten
from advantage.policies.networks import Activation, Initialisation
from advantage.running_moments import Moments, Normaliser, moments_init, moments_merge, normaliser
from advantage.types import Array, Clock, Key, Played, Pytree, Spec


class SearchState(NamedTuple):
    """The training state of a policy search.

    Attributes:
        policy: the policy whose parameters a vector holds; static.
        search: the optimiser's own state.
        best: the candidate with the highest mean return in all generations, `[d]`.
        best_return: that return; -inf before the first generation.
        observations: running statistics of the candidates' observations.
        evaluations, episodes: candidates evaluated and episodes played, uint32.
        clock: environment steps played, and the budget.
    """

    policy: Deterministic | Scoring
    search: OptimiserState
    best: Array
    best_return: Array
    observations: Moments
    evaluations: Array
    episodes: Array
    clock: Clock


class SearchActor(NamedTuple):
    """A policy, its parameters, and the statistics that scale its observations."""

    policy: Deterministic | Scoring
    params: Pytree
    normaliser: Normaliser | None


@hyperparameters
@dataclasses.dataclass(frozen=True)
class PolicySearch:
    """Search for a policy with an optimiser: the vector is the policy's parameters, the cost is minus its mean return.

    In each generation, with R(x) the undiscounted return of an episode of the policy with the parameters x:

        x_1..n  <- ask(search, key)
        f_i     <- -1/episodes sum of R(x_i) over the episodes of candidate i
        search  <- tell(search, x_1..n, f_1..n)

    where `optimiser`, such as `adv.CEM()`, has ask and tell. The policy is deterministic. Observations are scaled by
    the statistics of earlier generations.
    """

    optimiser: Optimiser = dataclasses.field(metadata={"is_pytree": True})
    episodes: int = ranged(1, "[1, inf)")
    """Episodes that each candidate plays; its cost is minus their mean return."""
    common_random_numbers: bool = False
    """Give all candidates of a generation the same initial states and random numbers."""
    reevaluate: int = ranged(0, "[0, inf)")
    """Number of a generation's best candidates that play as many episodes again before they are evaluated."""
    hidden: tuple[int, ...] = ranged((), "[1, inf)")
    """Widths of the policy's hidden layers; none makes it linear."""
    activation: Activation = "tanh"
    """Activation after each hidden layer."""
    initialisation: Initialisation = "orthogonal"
    """Initial weights of the search: orthogonal with gains, or independent normals."""
    action_bounds: Bounds = "clip"
    """Bounded continuous actions: clip the policy's outputs, or squash them by tanh."""
    action_units: Literal["bounds", "raw"] = "bounds"
    """Bounded continuous actions: 0 is the middle of the bounds and 1 the upper bound, or raw environment units."""
    normalize_observation: bool = cast(bool, None)  # `__post_init__` replaces it by the optimiser's default
    """Scale observations by running mean and standard deviation; the default is True for ars (V2) only."""
    clip_observation: float = ranged(10.0, "(0, inf)")
    """Limit of a scaled observation, in standard deviations."""
    play: Literal["mean", "best"] = "mean"
    """Parameters of the agent: the mean of the search, or the best candidate of all generations."""
    network: Any = None
    """A network of your own, from Python only: a pair (init, apply), adv.MLP, adv.CNN, adv.from_flax(...)."""

    def __post_init__(self):
        check_optimiser(self.optimiser, "optimiser")
        if isinstance(self.optimiser, HostOptimiser):
            raise ValueError(
                f"optimiser={self.optimiser!r} is not allowed: it runs on the host only, and a policy search "
                "compiles its optimiser; use it with adv.search.minimize."
            )
        if self.normalize_observation is None:
            default = isinstance(self.optimiser, AugmentedRandomSearch)
            object.__setattr__(self, "normalize_observation", default)
        check(self)

    def init(self, key: Key, spec: Spec) -> SearchState:
        """The initial training state, with random parameters as the start of the search.

        Raises:
            ValueError: a space that no policy covers.
        """
        policy = deterministic(
            spec.observation_space,
            spec.action_space,
            network=self.network,
            hidden=self.hidden,
            activation=self.activation,
            initialisation=self.initialisation,
            bounds=self.action_bounds,
            units=spec.action_units,
        )
        start = flatten(policy.init(key))
        size = policy.num_continuous if self.normalize_observation else 0
        return SearchState(
            policy=policy,
            search=self.optimiser.begin(start),
            best=start,
            best_return=jnp.full((), -jnp.inf),
            observations=moments_init((size,)),
            evaluations=jnp.zeros((), jnp.uint32),
            episodes=jnp.zeros((), jnp.uint32),
            clock=clock_init(spec.total_timesteps),
        )

    def actor(self, state: SearchState) -> SearchActor:
        """The search's mean, or its best candidate."""
        vector = state.best if self.play == "best" else state.search.mean.astype(state.best.dtype)
        see = normaliser(state.observations, self.clip_observation)
        params = unflatten(state.policy, vector)
        return SearchActor(state.policy, params, see if self.normalize_observation else None)

    def initial_memory(self, actor: SearchActor) -> Pytree:
        """Nothing: the policies of a search have no memory."""
        return ()

    def noise(self, actor: SearchActor, key: Key, shape: tuple[int, ...]) -> Array:
        """Zeros: the policy is deterministic."""
        return jnp.zeros(shape, jnp.float32)

    def act(
        self, actor: SearchActor, obs: Pytree, memory: Pytree, noise: Array
    ) -> tuple[Pytree, Pytree, Pytree]:
        """The policy's action, which is deterministic: `-> action, memory, extras`."""
        return *self.greedy(actor, obs, memory), ()

    def greedy(self, actor: SearchActor, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        """The policy's action: `-> action, memory`."""
        return actor.policy.action(actor.params, obs, actor.normaliser), memory

    def candidate(self, actor: SearchActor, vector: Array) -> SearchActor:
        """The same actor with a candidate's parameters."""
        return actor._replace(params=unflatten(actor.policy, vector))

    def seen(self, actor: SearchActor, obs: Pytree) -> Array:
        """The values of a batch of observations for the statistics, less the mean so far, `[m, c]`."""
        if actor.normaliser is None:
            return np.zeros((1, 0), np.float32)
        x = actor.policy.continuous(obs)
        return x.reshape(-1, actor.policy.num_continuous) - actor.normaliser.mean

    def propose(self, state: SearchState, key: Key) -> Array:
        """The candidates of a generation, `[n, d]`."""
        return self.optimiser.ask(state.search, key).astype(state.best.dtype)

    def learn(
        self, state: SearchState, candidates: Array, played: Played
    ) -> tuple[SearchState, dict[str, Array]]:
        """Tell the optimiser the returns of the candidates: `-> state, metrics`.

        After a generation is evaluated, its observations are merged into the statistics for the next generation.
        """
        cost = nonfinite_to_inf(-played.returns)
        search = self.optimiser.tell(state.search, candidates, cost)
        first = jnp.argmin(cost)
        better = -cost[first] > state.best_return
        observations = state.observations
        if self.normalize_observation:
            mean_seen = observations.mean.value + played.seen_mean
            observations = moments_merge(observations, played.seen, mean_seen, played.seen_variance)
        learned = state._replace(
            search=search,
            best=jnp.where(better, candidates[first], state.best),
            best_return=jnp.where(better, -cost[first], state.best_return),
            observations=observations,
            evaluations=state.evaluations + jnp.uint32(len(cost)),
            episodes=state.episodes + played.episodes,
            clock=advance_clock(state.clock, played.steps),
        )
        mean, deviation = _finite_moments(played.returns)
        metrics = {
            "return_mean": mean,
            "return_std": deviation,
            "return_best": -cost[first],
            "best_return": learned.best_return,
            "spread": self.optimiser.spread(search),
            "evaluations": learned.evaluations.astype(jnp.float32),
            "episodes": learned.episodes.astype(jnp.float32),
        }
        return learned, metrics


def _finite_moments(returns: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of the returns that are finite; 0 where none is."""
    finite = jnp.isfinite(returns)
    count = jnp.maximum(finite.sum(), 1)
    mean = jnp.where(finite, returns, 0).sum() / count
    variance = jnp.where(finite, jnp.square(returns - mean), 0).sum() / count
    return mean, jnp.sqrt(variance)
