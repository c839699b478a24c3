"""Relative value iteration (White 1963): the largest average reward."""

from __future__ import annotations

import numpy as np

from advantage.algorithms.dynamic_programming.backups import action_values, bellman, facts
from advantage.algorithms.dynamic_programming.plan import Plan, blank, rounding
from advantage.algorithms.hyperparameters import hyperparameters, ranged
from advantage.environments.tables.mdp import MDP


@hyperparameters
class RelativeValueIteration:
    """Relative value iteration for the average reward: gain g and bias h with `g + h(s) = max_a r(s, a) + Σ P h`.

        h        <- 0
        repeat   d    <- max_a (r(s, a) + Σ_s' P(s' | s, a) h(s')) - h(s)
                 h    <- h + (1 - stay) d,    then h <- h - h(0)
        until    (max d - min d) / 2 <= tolerance
        return   gain (max d + min d) / 2,    bias h

    For any h, the largest gain of every state lies between `min d` and `max d`. `error_bound` is half their distance
    and bounds the error of the gain alone, which is `extra["gain"]`. It converges to zero if the largest gain is the
    same for every state, for example if every state can be reached from every other. `value` is the bias, zero in
    state 0, without a guarantee. The table's discount is not used.

    With `stay` above zero every state leads to itself with that probability, which changes no gain, scales time, and
    lets periodic chains converge.

    Source: White 1963, "Dynamic programming, Markov chains, and the method of successive approximations"; Odoni
    1969, "On finding the maximal gain for Markov decision processes" (the bounds); Puterman 1994, "Markov decision
    processes", sections 8.5.4 (the transformation) and 8.5.5.
    """

    tolerance: float = ranged(1e-6, "(0, inf)")
    """Largest error of the gain, in units of reward per step."""
    stay: float = ranged(0.1, "[0, 1)")
    """Probability that a state leads to itself, against periodicity."""

    def start(self, mdp: MDP) -> Plan:
        """A plan whose bias is zero everywhere."""
        return blank(mdp, gain=0.0)

    def improve(self, mdp: MDP, plan: Plan) -> Plan:
        """One sweep over all states."""
        backup = bellman(mdp, 1.0, plan.value)
        value = backup.value
        value *= 1 - self.stay
        value += self.stay * plan.value
        value -= value[0]
        residual = (backup.highest - backup.lowest) / 2
        uneven = max(1 - facts(mdp).least, facts(mdp).most - 1) * backup.size
        error = residual + rounding(mdp, 1.0, backup.size) + uneven
        gain = np.asarray((backup.highest + backup.lowest) / 2)
        return Plan(value, backup.policy, error, residual, bool(error <= self.tolerance), {"gain": gain})

    def action_value(self, mdp: MDP, plan: Plan) -> np.ndarray:
        """`r(s, a) - g + Σ_s' P(s' | s, a) h(s')`, `[S, A]`."""
        return action_values(mdp, 1.0, plan.value) - plan.extra["gain"]
