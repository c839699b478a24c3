"""Markov chains: communicating classes and long-run distributions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy
from scipy.sparse import csgraph

from advantage.environments.tables.markov_chain import MarkovChain
from advantage.theory.linear import solve

GLANCE = 64  # steps of a lazy chain after which it is mostly in the states that it visits often


class CommunicatingClass(NamedTuple):
    """A set of states in which each leads to every other.

    Attributes:
        states: int `[N]`, ascending.
        closed: no step leads out; a chain that enters stays and returns to each of these states infinitely often.
        period: the greatest common divisor of the lengths of all paths from a state back to itself; 0 if there is none.
    """

    states: np.ndarray
    closed: bool
    period: int


def communicating_classes(chain: MarkovChain) -> list[CommunicatingClass]:
    """The chain's states as strongly connected components of the graph of `P > 0`, by their first state.

    A class's period is `gcd{d(i) + 1 - d(j) : P[i, j] > 0}` over the steps within it, where `d` counts the steps
    from its first state (Denardo 1977, "Periods of connected networks and powers of nonnegative matrices").
    """
    graph = _graph(chain.transition)
    count, label = csgraph.connected_components(graph, directed=True, connection="strong")
    source, target = graph.nonzero()
    inside = label[source] == label[target]
    closed = np.ones(count, bool)
    closed[label[source[~inside]]] = False

    source, target = source[inside], target[inside]
    first = np.unique(label, return_index=True)[1]
    within = scipy.sparse.csr_array((np.ones(len(source)), (source, target)), shape=graph.shape)
    depth = csgraph.dijkstra(within, indices=first, min_only=True, unweighted=True).astype(int)
    period = np.zeros(count, int)
    np.gcd.at(period, label[source], depth[source] + 1 - depth[target])

    members = np.split(np.argsort(label, kind="stable"), np.cumsum(np.bincount(label))[:-1])
    return [
        CommunicatingClass(members[k], bool(closed[k]), int(period[k])) for k in np.argsort(first).tolist()
    ]


def closed_classes(chain: MarkovChain) -> list[CommunicatingClass]:
    """The classes that the chain ends up in; there is at least one."""
    return [found for found in communicating_classes(chain) if found.closed]


def is_irreducible(chain: MarkovChain) -> bool:
    """Whether every state leads to every other: there is one communicating class."""
    return len(communicating_classes(chain)) == 1


def period(chain: MarkovChain) -> int:
    """The common period of all states of an irreducible chain; 1 is aperiodic.

    Raises:
        ValueError: a reducible chain, whose classes have separate periods.
    """
    classes = communicating_classes(chain)
    if len(classes) > 1:
        raise ValueError(
            f"The chain is reducible: it has the classes {name_classes(classes)}, each with its own period; see "
            "communicating_classes."
        )
    return classes[0].period


def is_ergodic(chain: MarkovChain) -> bool:
    """Whether the chain is irreducible and aperiodic, so that `μ_t` converges to the stationary one."""
    classes = communicating_classes(chain)
    return len(classes) == 1 and classes[0].period == 1


def distribution_after(chain: MarkovChain, steps: int) -> np.ndarray:
    """`μ_t`, `[S]`, by `μ_{t+1} = μ_t P` from `μ_0 = chain.start`.

    Args:
        chain: any; a periodic one does not converge.
        steps: `t`, 0 or more.

    Raises:
        ValueError: a negative number of steps.
    """
    if steps < 0:
        raise ValueError(f"steps={steps} is not allowed; use 0 or more.")
    mu = np.array(chain.start)
    for _ in range(steps):
        mu = mu @ chain.transition
    return mu


def stationary_distribution(chain: MarkovChain) -> np.ndarray:
    """The one distribution with `μ = μ P`, `Σ μ = 1`, `[S]`.

    It is the share of time that the chain spends in each state, whatever its start: 0 in transient states, also
    if a periodic chain does not converge. It is computed from the visits between two returns to a state `k`,

        μ_j / μ_k = Σ_t P(s_t = j, no return before t | s_0 = k) = [P_k (I - P)^{-1}]_j    without row and column k.

    Raises:
        ValueError: several closed classes, each of which has a stationary distribution; the message names them.

    Source: Kemeny & Snell 1960, "Finite Markov chains", chapter 6.
    """
    closed = closed_classes(chain)
    if len(closed) > 1:
        raise ValueError(
            f"The chain has {len(closed)} closed classes, {name_classes(closed)}, and a stationary distribution on "
            "each; give one of them as a chain of its own, or use distribution_after, which depends on the start."
        )
    states = closed[0].states
    transition = chain.transition[states][:, states]
    often = np.full(len(states), 1 / len(states))
    for _ in range(GLANCE):
        often = (often + often @ transition) / 2
    k = int(often.argmax())  # a state that is rarely visited makes the system ill-conditioned
    others = np.delete(np.arange(len(states)), k)
    returns = transition[[k]][:, others]
    visits = np.ones(len(states))
    leaving = np.ravel(returns.toarray() if scipy.sparse.issparse(returns) else returns)
    visits[others] = solve(transition[others][:, others], 1.0, leaving, transposed=True).clip(min=0)
    mu = np.zeros(chain.n_states)
    mu[states] = visits / visits.sum()
    return mu


def reached_from(chain: MarkovChain, states: Any) -> np.ndarray:
    """Which states the chain may reach from any of `states`, in zero or more steps, bool `[S]`."""
    return _connected(_graph(chain.transition), states)


def leading_to(chain: MarkovChain, states: Any) -> np.ndarray:
    """Which states may lead to any of `states`, in zero or more steps, bool `[S]`."""
    return _connected(_graph(chain.transition).T.tocsr(), states)


def name_classes(classes: list[CommunicatingClass]) -> str:
    """`{0, 1} and {4, 5, ... 96 more}`, for messages."""

    def name(states: np.ndarray) -> str:
        more = f", ... {len(states) - 4} more" if len(states) > 5 else ""
        return "{" + ", ".join(map(str, states[: 4 if more else 5])) + more + "}"

    named = [name(found.states) for found in classes[:4]]
    if len(classes) > 4:
        named.append(f"{len(classes) - 4} more")
    return ", ".join(named[:-1]) + " and " + named[-1] if len(named) > 1 else named[0]


def _graph(transition: Any) -> Any:
    """The possible steps, CSR `[S, S]` without stored zeros."""
    graph = scipy.sparse.csr_array(transition, copy=True)
    graph.eliminate_zeros()
    return graph


def _connected(graph: Any, states: Any) -> np.ndarray:
    if len(states) == 0:
        return np.zeros(graph.shape[0], bool)
    return np.isfinite(csgraph.dijkstra(graph, indices=states, min_only=True, unweighted=True))
