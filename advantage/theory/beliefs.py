"""Partially observable environments: beliefs about the hidden state, and their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from advantage.environments.tables.mdp import MDP, POMDP
from advantage.environments.tables.outcomes import Outcome
from advantage.machine import refuse_array

TOLERANCE = 1e-9  # relative to the largest value: a vector that is better by less is not needed
DIGITS = 10  # beliefs that agree in this many digits count as equal


def observation_probabilities(pomdp: POMDP, belief: np.ndarray, action: int) -> np.ndarray:
    """`P(o | b, a) = Σ_s' O(o | s', a) Σ_s P(s' | s, a) b(s)`, `[O]`."""
    return _joint(pomdp, belief, action).sum(axis=0)


def update_belief(pomdp: POMDP, belief: np.ndarray, action: int, observation: int) -> np.ndarray:
    """`b'(s') = O(o | s', a) Σ_s P(s' | s, a) b(s) / P(o | b, a)`, `[S]`: the state's distribution one step later.

    The observation does not include whether the episode has ended.

    Args:
        pomdp: the environment.
        belief: `b`, `[S]`.
        action: `a`, taken under that belief.
        observation: `o`, seen afterwards.

    Raises:
        ValueError: not a belief, or an observation that is impossible after this belief and action.

    Source: Kaelbling et al. 1998, "Planning and acting in partially observable stochastic domains", section 3.3.
    """
    return _condition(_joint(pomdp, belief, action), observation, f"after this belief and action {action}")


def belief_of_history(pomdp: POMDP, observations: Sequence[int], actions: Sequence[int]) -> np.ndarray:
    """The belief `P(s_t | o_0, a_0, o_1, ..., a_{t-1}, o_t)`, `[S]`, from the start distribution.

    Args:
        pomdp: the environment.
        observations: `o_0` to `o_t`; the first is the observation after a reset.
        actions: `a_0` to `a_{t-1}`, one fewer.

    Raises:
        ValueError: numbers of observations and actions that do not fit, or an impossible observation.
    """
    if len(observations) != len(actions) + 1:
        raise ValueError(
            f"{len(observations)} observations and {len(actions)} actions; give one observation more than actions: "
            "the first is seen before any action."
        )
    belief = _condition(_first_joint(pomdp), observations[0], "at the start")
    for action, observation in zip(actions, observations[1:], strict=True):
        belief = update_belief(pomdp, belief, action, observation)
    return belief


class AlphaVectors(NamedTuple):
    """A value function of beliefs that is convex and piecewise linear: `V(b) = max_i α_i · b`.

    Attributes:
        vectors: `α`, `[K, S]`: the value of each plan in each state.
        actions: int `[K]`, the first action of each plan.
    """

    vectors: np.ndarray
    actions: np.ndarray

    def value(self, belief: np.ndarray) -> np.ndarray:
        """`V(b)` for one belief `[S]` or several `[..., S]`."""
        return (belief @ self.vectors.T).max(axis=-1)

    def action(self, belief: np.ndarray) -> np.ndarray:
        """The first action of the best plan, for one belief `[S]` or several `[..., S]`."""
        return self.actions[(belief @ self.vectors.T).argmax(axis=-1)]


def alpha_vectors(pomdp: POMDP, horizon: int) -> list[AlphaVectors]:
    """Exact value iteration over beliefs: item n is `V_n`, with n steps to go, for n = 0 to `horizon`.

        V_n(b) = max_a [r(b, a) + γ Σ_o P(o | b, a) V_{n-1}(b')]
        Γ_n    = prune ∪_a (r_a + ⊕_o prune {γ Σ_s' P(s' | s, a) O(o | s', a) α(s') : α in Γ_{n-1}})

    where ⊕ adds each vector of one set to each of the other, and is pruned after each addition. Item 0 is zero and has
    no action: -1.

    Args:
        pomdp: a small one; the number of vectors may grow doubly exponentially.
        horizon: 1 step or more.

    Raises:
        ValueError: a horizon below 1, or vectors that would not fit into memory.

    Source: Cassandra, Littman & Zhang 1997, "Incremental pruning: a simple, fast, exact method for partially observable
    Markov decision processes".
    """
    if horizon < 1:
        raise ValueError(f"horizon={horizon} is not allowed; use 1 step or more.")
    solutions = [AlphaVectors(np.zeros((1, pomdp.mdp.n_states)), np.array([-1]))]
    for _ in range(horizon):
        sets = [_plans_after(pomdp, action, solutions[-1].vectors) for action in range(pomdp.mdp.n_actions)]
        vectors = np.concatenate(sets)
        actions = np.repeat(np.arange(len(sets)), [len(found) for found in sets])
        needed = prune(vectors)
        solutions.append(AlphaVectors(vectors[needed], actions[needed]))
    return solutions


def prune(vectors: np.ndarray) -> np.ndarray:
    """The vectors that are strictly the largest at some belief: indices into `[K, S]`.

    First removes vectors that another vector dominates in every state, then each for which the linear program

        max_b,d d    such that    b · (α - α') >= d for every other α',    b a distribution

    finds no belief with d > 0.

    Source: Monahan 1982, "A survey of partially observable Markov decision processes".
    """
    tolerance = TOLERANCE * max(1.0, float(np.abs(vectors).max()))
    needed = np.ones(len(vectors), bool)
    for is_needed in (_undominated, _ahead_somewhere):
        for index in range(len(vectors)):
            if needed[index]:
                needed[index] = False
                needed[index] = is_needed(vectors[index], vectors[needed], tolerance)
    return np.flatnonzero(needed)


class BeliefMDP(NamedTuple):
    """A POMDP as an MDP whose states are beliefs.

    Attributes:
        mdp: the MDP; state i stands for `beliefs[i]` after `depth[i]` steps.
        beliefs: `[N, S]`.
        depth: int `[N]`.
    """

    mdp: MDP
    beliefs: np.ndarray
    depth: np.ndarray


def belief_mdp(pomdp: POMDP, horizon: int) -> BeliefMDP:
    """The beliefs that can arise within `horizon` steps, as an MDP that ends after them.

        r(b, a) = Σ_s b(s) r(s, a),    P(b' | b, a) = Σ_{o : b' follows b, a, o} P(o | b, a)

    It starts in the beliefs after the first observation. A policy for it is a policy over histories.

    Args:
        pomdp: a small one; there may be as many beliefs as histories.
        horizon: 1 step or more.

    Raises:
        ValueError: a horizon below 1.

    Source: Kaelbling et al. 1998, "Planning and acting in partially observable stochastic domains", section 3.4.
    """
    if horizon < 1:
        raise ValueError(f"horizon={horizon} is not allowed; use 1 step or more.")
    beliefs: list[np.ndarray] = []
    depth: list[int] = []
    numbers: dict[tuple, int] = {}

    def successors(joint: np.ndarray, step: int) -> list[tuple[float, int]]:
        """The probabilities and indices of the beliefs after each possible observation."""
        found = []
        for probability, part in zip(joint.sum(axis=0), joint.T, strict=True):
            if probability > 0:
                belief = part / probability
                key = (step, *np.round(belief, DIGITS).tolist())
                if key not in numbers:
                    numbers[key] = len(beliefs)
                    beliefs.append(belief)
                    depth.append(step)
                found.append((float(probability), numbers[key]))
        return found

    first = successors(_first_joint(pomdp), 0)
    table: list[list[list[Outcome]]] = []
    while len(table) < len(beliefs) and depth[len(table)] < horizon:
        belief, later = beliefs[len(table)], depth[len(table)] + 1
        table.append(
            [
                [
                    (
                        probability,
                        number,
                        float(belief @ pomdp.mdp.expected_reward[:, action]),
                        later == horizon,
                    )
                    for probability, number in successors(_joint(pomdp, belief, action), later)
                ]
                for action in range(pomdp.mdp.n_actions)
            ]
        )
    start = np.zeros(len(beliefs))
    for probability, number in first:
        start[number] += probability
    mdp = MDP.from_function(
        len(beliefs),
        pomdp.mdp.n_actions,
        lambda state, action: table[state][action] if state < len(table) else [],
        start=start / start.sum(),
        gamma=pomdp.mdp.gamma,
        max_episode_steps=horizon,
    )
    return BeliefMDP(mdp, np.array(beliefs), np.array(depth))


def _joint(pomdp: POMDP, belief: np.ndarray, action: int) -> np.ndarray:
    """`P(s', o | b, a)`, `[S, O]`."""
    belief = np.asarray(belief, float)
    n_states, n_actions = pomdp.mdp.n_states, pomdp.mdp.n_actions
    if belief.shape != (n_states,) or not (belief >= 0).all() or abs(belief.sum() - 1) > 1e-8:
        raise ValueError(
            f"The belief has shape {belief.shape} and sums to {belief.sum():.9g}; give a distribution over the "
            f"{n_states} states."
        )
    if not 0 <= action < n_actions:
        raise ValueError(f"action={action} is not allowed; actions are 0 to {n_actions - 1}.")
    return (belief @ pomdp.mdp.rows(np.full(n_states, action)))[:, None] * pomdp.emission[:, action]


def _first_joint(pomdp: POMDP) -> np.ndarray:
    """`P(s_0, o_0)`, `[S, O]`."""
    return pomdp.mdp.start[:, None] * pomdp.first_emission


def _condition(joint: np.ndarray, observation: int, when: str) -> np.ndarray:
    """`P(s | o)`, `[S]`, from `P(s, o)`, `[S, O]`."""
    if not 0 <= observation < joint.shape[1]:
        raise ValueError(f"observation={observation} is not allowed; use 0 to {joint.shape[1] - 1}.")
    likelihood = joint[:, observation]
    if likelihood.sum() == 0:
        possible = np.flatnonzero(joint.sum(axis=0)).tolist()
        raise ValueError(f"Observation {observation} is impossible {when}; possible are {possible}.")
    return likelihood / likelihood.sum()


def _plans_after(pomdp: POMDP, action: int, vectors: np.ndarray) -> np.ndarray:
    """The vectors of the plans that begin with `action` and go on with one of `vectors` for each observation."""
    plans = pomdp.mdp.expected_reward[None, :, action]
    follow = pomdp.mdp.rows(np.full(pomdp.mdp.n_states, action))
    for likelihood in pomdp.emission[:, action].T:
        parts = pomdp.mdp.gamma * (follow @ (likelihood * vectors).T).T
        parts = parts[prune(parts)]
        refuse_array(
            "Γ", (len(plans) * len(parts), plans.shape[1]), "use a shorter horizon or a smaller POMDP"
        )
        plans = (plans[:, None] + parts).reshape(-1, plans.shape[1])
        plans = plans[prune(plans)]
    return plans


def _undominated(vector: np.ndarray, others: np.ndarray, tolerance: float) -> bool:
    return not (others >= vector - tolerance).all(axis=1).any()


def _ahead_somewhere(vector: np.ndarray, others: np.ndarray, tolerance: float) -> bool:
    if len(others) == 0:
        return True
    n = len(vector)
    ahead = linprog(
        np.append(np.zeros(n), -1.0),
        A_ub=np.column_stack([others - vector, np.ones(len(others))]),
        b_ub=np.zeros(len(others)),
        A_eq=np.append(np.ones(n), 0.0)[None],
        b_eq=[1.0],
        bounds=[(0, None)] * n + [(None, None)],
        method="highs",
    )
    if ahead.status != 0:
        raise ArithmeticError(f"A linear program of the pruning failed: {ahead.message}")
    return -ahead.fun > tolerance
