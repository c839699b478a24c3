"""IMPALA (Espeholt et al. 2018): actors that lag behind the learner, and V-trace, which corrects for it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from advantage.algorithms.hyperparameters import Schedule, check, hyperparameters, ranged
from advantage.algorithms.policy_gradient.shared.acting import (
    Actor,
    act_with_log_prob,
    greedy_by_policy,
    policy_actor,
    policy_memory,
    policy_noise,
)
from advantage.algorithms.policy_gradient.shared.ascent import Judged, actor_critic_step
from advantage.algorithms.policy_gradient.shared.experience import advance_statistics, experience
from advantage.algorithms.policy_gradient.shared.optimisers import optimiser_of
from advantage.algorithms.policy_gradient.shared.options import ActorCriticOptions
from advantage.algorithms.policy_gradient.shared.state import PolicyState, extended, policy_state_init
from advantage.estimators.off_policy_corrections import effective_sample_size, vtrace
from advantage.estimators.returns import explained_variance
from advantage.objectives.surrogates import kl_estimate
from advantage.types import Array, Key, Pytree, Rollout, Spec


class LaggingActor(NamedTuple):
    """`acting` gathers experience; `newest` has the newest parameters and is what evaluation plays."""

    acting: Actor
    newest: Actor

    def distribution(self, obs: Pytree) -> Any:
        return self.newest.distribution(obs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImpalaState(PolicyState):
    """A policy's training state, and the last `lag` actors, the oldest first, `[lag, ...]`."""

    past_actors: Actor


@hyperparameters
@dataclasses.dataclass(frozen=True)
class Impala(ActorCriticOptions):
    """IMPALA: actor-critic on the experience of an older policy, corrected by V-trace.

    The policy mu of `lag` updates ago gathers experience; at first it is the initial policy. This models actors that
    fetch their parameters from a learner from time to time. For each rollout of n_steps in each environment:

        rho      <- pi(a|s) / mu(a|s)                 mu(a|s) as recorded when acting
        v, A     <- V-trace(rho, lam, rho_clip, c_clip)
        L        <- -mean A log pi(a|s) + vf_coef mean (V - v)^2 / 2 - ent_coef mean H(pi)
        theta    <- RMSProp(theta, clip_norm(grad L, max_grad_norm))

    `correction` = "none" takes rho = 1, which is right with lag = 0; "ignored" does so with any lag, to show its
    effect. The greedy policy, which evaluation uses, has the newest parameters; actions are drawn by mu.

    Departures from the paper: the lag is exact and on one machine; gradients are means, not sums; truncated episodes
    are bootstrapped; networks are separate by default.

    Source: Espeholt et al. 2018, "IMPALA: scalable distributed deep-RL with importance weighted actor-learner
    architectures", section 4.
    """

    learning_rate: float | Schedule = ranged(2e-3, "[0, inf)")
    """The optimiser's step size; a number or a schedule of progress."""
    n_steps: int = ranged(20, "[1, inf)")
    """Steps taken in each environment for one update."""
    lag: int = ranged(0, "[0, inf)")
    """Number of updates by which the acting policy is older than the learning one."""
    correction: Literal["vtrace", "none", "ignored"] = "vtrace"
    """Correction of the lag: V-trace; none, which needs lag = 0; or none although there is a lag."""
    lam: float = ranged(1.0, "[0, 1]")
    """Lambda of V-trace: 0 uses one step, 1 all steps to the rollout's end as in the paper."""
    rho_clip: float = ranged(1.0, "(0, inf)")
    """Largest rho of a TD error and of an action's weight; if finite, values are of a policy between mu and pi."""
    c_clip: float = ranged(1.0, "(0, inf)")
    """Largest rho in the product that weights later TD errors; at most rho_clip."""
    ent_coef: float = ranged(0.01, "[0, inf)")
    """Weight of the entropy bonus, per nat."""

    def __post_init__(self):
        check(self)
        if self.correction == "none" and self.lag > 0:
            raise ValueError(
                f"correction='none' with lag={self.lag} is not allowed: the acting policy is not the learning one, "
                "and without importance weights the gradient is biased; use correction='vtrace', or "
                "correction='ignored' to see the effect."
            )
        known = not isinstance(self.rho_clip, jax.Array) and not isinstance(self.c_clip, jax.Array)
        if known and self.rho_clip < self.c_clip:
            raise ValueError(
                f"rho_clip={self.rho_clip} with c_clip={self.c_clip} is not allowed: V-trace converges only where "
                f"rho_clip is at least c_clip; use c_clip={self.rho_clip} or less."
            )

    def init(self, key: Key, spec: Spec) -> ImpalaState:
        """Draw the initial training state. Raises ValueError for a space that no policy covers."""
        state = policy_state_init(self, key, spec, shared=self.share_network)
        first = policy_actor(self, state)
        return extended(
            state,
            ImpalaState,
            optimiser=optimiser_of(self).init(ravel_pytree(state.params)[0]),
            past_actors=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.lag, *leaf.shape)), first),
        )

    def actor(self, state: ImpalaState) -> LaggingActor:
        """The policy of `lag` updates ago, which acts, and the newest."""
        oldest = jax.tree.map(lambda leaf: leaf[0], self._actors(state))
        return LaggingActor(oldest, policy_actor(self, state))

    def initial_memory(self, actor: LaggingActor) -> Pytree:
        """The policy's memory at the start of an episode."""
        return policy_memory(self, actor.acting)

    def noise(self, actor: LaggingActor, key: Key, shape: tuple[int, ...]) -> Pytree:
        """The random numbers for `act`, `[*shape, ...]`."""
        return policy_noise(self, actor.acting, key, shape)

    def act(
        self, actor: LaggingActor, obs: Pytree, memory: Pytree, noise: Pytree
    ) -> tuple[Pytree, Pytree, Pytree]:
        """Sample from mu: `-> action, memory, log mu(a|s)`."""
        return act_with_log_prob(self, actor.acting, obs, memory, noise)

    def greedy(self, actor: LaggingActor, obs: Pytree, memory: Pytree) -> tuple[Pytree, Pytree]:
        """The newest policy's mode: `-> action, memory`."""
        return greedy_by_policy(self, actor.newest, obs, memory)

    def update(self, state: ImpalaState, rollout: Rollout, key: Key) -> tuple[ImpalaState, dict[str, Array]]:
        """One step: `-> state, metrics`.

        Raises:
            ValueError: a rollout without the log-probabilities that `act` returns.
        """
        if not jax.tree.leaves(rollout.extras):
            raise ValueError(
                "The rollout's extras are empty: IMPALA needs log mu(a|s) of every action, which Impala.act returns as "
                "extras; gather the rollout with it."
            )
        seen = experience(self, state, rollout)
        log_ratio = seen.log_prob - rollout.extras
        rho = jnp.exp(log_ratio)
        facts = seen.reward, seen.discount, seen.value, seen.next_value
        if self.correction == "vtrace":
            corrected = vtrace(*facts, rho, seen.trace, self.lam, self.rho_clip, self.c_clip)
        else:
            corrected = vtrace(*facts, jnp.ones_like(rho), seen.trace, self.lam)
        action, value, (target, advantage) = seen.samples(seen.action, seen.value, corrected)
        params, optimiser, metrics = actor_critic_step(self, state, Judged(seen.x, action, advantage, target))
        metrics |= {
            "explained_variance": explained_variance(value, target),
            "ratio": rho.mean(),
            "clip_fraction": (rho > self.rho_clip).mean(),
            "approx_kl": kl_estimate(log_ratio).mean(),
            "effective_sample_size": effective_sample_size(rho),
        }
        learned = dataclasses.replace(
            advance_statistics(self, state, rollout, seen.critic_memory),
            params=params,
            optimiser=optimiser,
            past_actors=jax.tree.map(lambda leaf: leaf[1:], self._actors(state)),
        )
        return learned, metrics

    def _actors(self, state: ImpalaState) -> Actor:
        """The last `lag` actors and the newest, the oldest first, `[lag + 1, ...]`."""
        newest = policy_actor(self, state)
        return jax.tree.map(lambda old, new: jnp.concatenate([old, new[None]]), state.past_actors, newest)
