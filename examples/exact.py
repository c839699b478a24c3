"""Your own world as a table: solve it, evaluate a policy, and differentiate its performance, all exactly.

A walker on a frozen river wants to reach the far bank. A function lists the outcomes of each state and action.
"""

import jax
import numpy as np

import advantage as adv
from advantage import theory

NEAR, FAR = 0, 5  # states: 0 is the near bank, 1 to 4 are on the ice, 5 is the far bank
CREEP, RUN = 0, 1


def outcomes(s: int, a: int) -> list[tuple[float, int, float, bool]]:
    """`[(p, s', r, terminated), ...]`: creeping is safe; running is twice as fast, or leads back to the near bank."""

    def move(p: float, to: int, reward: float) -> tuple[float, int, float, bool]:
        return p, min(to, FAR), reward, to >= FAR

    return [move(1.0, s + 1, -1.0)] if a == CREEP else [move(0.8, s + 2, -1.0), move(0.2, NEAR, -2.0)]


def main(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mdp = adv.MDP.from_function(FAR + 1, 2, outcomes, start=np.eye(FAR + 1)[NEAR], gamma=0.95)
    best = adv.solve(mdp, adv.PolicyIteration())
    print(f"V of the best policy: {best.value.round(3)}, actions {best.policy}")

    theta = np.random.default_rng(seed).normal(size=(mdp.n_states, mdp.n_actions))  # logits
    pi = theory.probabilities(jax.nn.softmax, theta)
    value = theory.values(mdp, pi)
    print(f"V of a random policy: {value.round(3)}, J {theory.performance(mdp, pi):.3f}")

    by_solve = theory.performance_gradient(mdp, jax.nn.softmax, theta)
    by_theorem = theory.policy_gradient(mdp, jax.nn.softmax, theta)
    print(f"gradient of J:\n{by_solve.round(4)}")
    print(f"difference between the solve and the theorem: {abs(by_solve - by_theorem).max():.1e}")
    return best.value, value, by_solve - by_theorem


if __name__ == "__main__":
    main()
