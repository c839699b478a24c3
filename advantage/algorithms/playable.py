"""Turns what a user gives into an algorithm: an optimiser becomes a policy search, a solver becomes a planner."""

from __future__ import annotations

from advantage.algorithms.dynamic_programming.backward_induction import BackwardInduction
from advantage.algorithms.dynamic_programming.plan import Solver
from advantage.algorithms.dynamic_programming.planner import Planner
from advantage.algorithms.search.optimiser import Optimiser
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.types import Algorithm

Playable = Algorithm | PolicySearch  # what drivers play
Trainable = Playable | Optimiser | Solver  # what users give to `adv.train`


def playable(given: Trainable) -> Playable:
    """The algorithm itself, a policy search with an optimiser, or a planner with a solver.

    Any object with the functions of `Optimiser` or `Solver` counts as one: a user's class need not inherit anything.

    Raises:
        ValueError: backward induction, whose policy no agent can follow, or an optimiser that cannot be compiled.
    """
    if isinstance(given, BackwardInduction):
        raise ValueError(
            "The policy of backward induction depends on how many steps are left, which an agent does not see; solve "
            "the table with adv.solve(mdp, adv.BackwardInduction()), or train a solver whose policy does not depend on "
            "the step, such as value-iteration."
        )
    if isinstance(given, Optimiser):
        return PolicySearch(given)
    if isinstance(given, Solver):
        return Planner(given)
    return given
