"""What a policy would earn, from recorded episodes of another one: nothing is played."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from advantage.agent import Agent, load
from advantage.algorithms.actors import action_probabilities
from advantage.algorithms.tabular.table import sizes_of
from advantage.algorithms.value.shared.fitted_q import RecordedSteps, fitted_q_network
from advantage.datasets.dataset import Dataset, refuse_other_spaces
from advantage.datasets.files import load_dataset
from advantage.estimators.off_policy_evaluation import (
    Estimate,
    Transitions,
    bootstrapped,
    doubly_robust_terms,
    effective_episodes,
    fitted_q_table,
    ordinary_terms,
    per_decision_terms,
    percentiles,
    weighted_terms,
)
from advantage.evaluation import check_request
from advantage.machine import refuse_large
from advantage.runs.compilation import in_single_precision
from advantage.types import Spec

REFITS = 200  # of a table, for the interval of fitted Q
FEW = 30  # effective episodes, below which intervals from weights are too narrow
LARGEST_TABLE = 1_000_000  # pairs of a state and an action; larger finite worlds get a network
Fit = Callable[[np.ndarray], np.ndarray]


class OfflineEvaluation(NamedTuple):
    """Estimates of the value of a policy from recorded episodes.

    Attributes:
        estimates: by name: importance-sampling, weighted, per-decision, doubly-robust, fitted-q. The first four need
            the log-probabilities of the recorded actions and are left out without them.
        recorded: the same sum of rewards of the recorded episodes, which is the value of the policy that acted.
        effective: how many episodes of the policy the recorded ones are worth to `weighted`; NaN if it is not known.
        episodes: how many were recorded.
        gamma: the discount per step.
    """

    estimates: dict[str, Estimate]
    recorded: Estimate
    effective: float
    episodes: int
    gamma: float


@in_single_precision
def evaluate_offline(
    agent: Agent | str | Path,
    data: Dataset | str | Path,
    *,
    gamma: float = 1.0,
    deterministic: bool = True,
    seed: int = 0,
) -> OfflineEvaluation:
    """Estimate what `evaluate` would find, from recorded episodes of another policy.

    Args:
        agent: an agent, or a path as for `load`; its policy is over Discrete actions and has no memory.
        data: recorded episodes, or their file.
        gamma: discount per step, in [0, 1]; 1 is the undiscounted return.
        deterministic: judge the policy that takes the most likely action, or the one that draws.
        seed: seed of the resamples and of fitted networks.

    Raises:
        ValueError: a number out of its range, other spaces, actions that are not Discrete, or a policy whose
            probabilities are not known.
    """
    agent = agent if isinstance(agent, Agent) else load(agent)
    name = "The dataset" if isinstance(data, Dataset) else str(data)
    dataset = data if isinstance(data, Dataset) else load_dataset(data)
    refuse_other_spaces(dataset, name, agent.spec.observation_space, agent.spec.action_space)
    _check_discrete(dataset.action_space)
    policy = action_probabilities(
        agent.algorithm, agent.actor.actor, dataset.observation, deterministic=deterministic
    )
    if policy is None:
        raise ValueError(
            f"The probabilities of {type(agent.algorithm).__name__}'s actions are not known from one observation: it "
            "has a memory, noise on its weights, or plans. Play it instead: advantage eval RUN"
        )
    return policy_estimates(dataset, policy, gamma=gamma, seed=seed)


@in_single_precision
def policy_estimates(
    dataset: Dataset, policy: np.ndarray, *, gamma: float = 1.0, seed: int = 0
) -> OfflineEvaluation:
    """`evaluate_offline` of a policy that is given by its probabilities.

    Args:
        dataset: recorded episodes over Discrete actions.
        policy: `pi(. | s)` of every observation of the dataset, `[N + E, A]`.
        gamma, seed: as for `evaluate_offline`.

    Raises:
        ValueError: a number out of its range, actions that are not Discrete, or probabilities of another shape.
    """
    _, seed = check_request(1, seed)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma={gamma} is not allowed; use a number from 0 to 1.")
    actions = _check_discrete(dataset.action_space)
    rows = dataset.num_steps + len(dataset.starts)
    if np.shape(policy) != (rows, actions.n) or not np.allclose(np.sum(policy, axis=1), 1, atol=1e-4):
        raise ValueError(
            f"The policy has shape {np.shape(policy)}; give a distribution over {actions.n} actions for each of {rows} "
            "observations."
        )
    problem = _Problem(dataset, np.asarray(policy, np.float64), float(gamma), seed)
    reward = problem.by_episode(dataset.reward)
    powers = gamma ** np.arange(len(reward))[:, None]
    recorded = bootstrapped((powers * reward).sum(axis=0), seed=seed)
    estimates, effective = {}, np.nan
    if dataset.log_prob is not None:
        ratio = problem.by_episode(problem.log_ratio)
        effective = effective_episodes(ratio)
        terms = {
            "importance-sampling": (ordinary_terms(reward, ratio, gamma),),
            "weighted": weighted_terms(reward, ratio, gamma),
            "per-decision": (per_decision_terms(reward, ratio, gamma),),
            "doubly-robust": (problem.doubly_robust(reward, ratio),),
        }
        estimates = {name: bootstrapped(*parts, seed=seed) for name, parts in terms.items()}
        if not effective:  # every weight is 0, and a mean of zeros would look like an answer
            estimates["importance-sampling"] = Estimate(np.nan)
    estimates["fitted-q"] = problem.fitted_q()
    return OfflineEvaluation(estimates, recorded, effective, len(dataset.starts), float(gamma))


def _check_discrete(space: gymnasium.Space) -> spaces.Discrete:
    if not isinstance(space, spaces.Discrete):
        raise ValueError(
            f"Off-policy evaluation needs Discrete actions, and the action space is {space}: the densities of clipped "
            "actions have no ratio. Play the policy instead: advantage eval RUN"
        )
    return space


class _Problem:
    """The data as the estimators take them, and the action values that are fitted to them."""

    def __init__(self, dataset: Dataset, policy: np.ndarray, gamma: float, seed: int):
        self.dataset, self.policy, self.gamma, self.seed = dataset, policy, gamma, seed
        space = dataset.action_space
        assert isinstance(space, spaces.Discrete)  # it was asked for
        self.row, self.chosen = dataset.row, dataset.action - space.start
        self.episode = np.cumsum(dataset.done) - dataset.done
        self.time = np.arange(dataset.num_steps) - dataset.starts[self.episode]
        self.shape = int(dataset.lengths.max()), len(dataset.starts)
        refuse_large("The episodes side by side", 64 * self.shape[0] * self.shape[1], "use fewer episodes")
        self.fit, self.is_table = self._fit_of()

    @property
    def log_ratio(self) -> np.ndarray:
        """`log pi(a | s) - log mu(a | s)`, `[N]`."""
        with np.errstate(divide="ignore"):
            return np.log(self.policy[self.row, self.chosen]) - self.dataset.log_prob

    def by_episode(self, steps: np.ndarray) -> np.ndarray:
        """`[N] -> [T, E]`, 0 after an episode's end."""
        table = np.zeros(self.shape)
        table[self.time, self.episode] = steps
        return table

    def doubly_robust(self, reward: np.ndarray, ratio: np.ndarray) -> np.ndarray:
        """The terms of each episode, with action values that were fitted to the other half of the episodes."""
        half = np.random.default_rng(self.seed).permutation(self.shape[1]) % 2
        terms = np.zeros(self.shape[1])
        for fold in range(min(2, self.shape[1])):
            others = half != fold if self.shape[1] > 1 else np.ones(1, bool)
            q = self.fit(others.astype(float))
            v = (self.policy * q).sum(axis=1)
            found = doubly_robust_terms(
                reward,
                ratio,
                self.gamma,
                self.by_episode(q[self.row, self.chosen]),
                self.by_episode(v[self.row]),
            )
            terms = np.where(half == fold, found, terms)
        return terms

    def fitted_q(self) -> Estimate:
        """The mean value of the first observations; with a table, an interval from refits to resampled episodes."""
        first, number = self.row[self.dataset.starts], self.shape[1]
        rng = np.random.default_rng(self.seed)

        def value(counts: np.ndarray) -> float:
            q = self.fit(counts)[first]
            return float(np.average((self.policy[first] * q).sum(axis=1), weights=counts))

        found = value(np.ones(number))
        if not self.is_table:
            return Estimate(found)
        refits = [value(rng.multinomial(number, np.full(number, 1 / number))) for _ in range(REFITS)]
        return Estimate(found, *percentiles(np.array(refits)))

    def _fit_of(self) -> tuple[Fit, bool]:
        """How action values are fitted: a table for finite observations, else a network."""
        dataset = self.dataset
        try:
            sizes = sizes_of(Spec(dataset.observation_space, dataset.action_space))
        except ValueError:
            return self._network, False
        if sizes.n_states * sizes.actions > LARGEST_TABLE:
            return self._network, False
        state = np.asarray(sizes.index(dataset.observation))
        return self._table_fit(state, sizes.n_states), True

    def _table_fit(self, state: np.ndarray, number: int) -> Fit:
        dataset, row = self.dataset, self.row
        steps = Transitions(state[row], self.chosen, dataset.reward, state[row + 1], 1.0 - dataset.terminated)
        policy = np.zeros((number, self.policy.shape[1]))
        policy[state] = self.policy

        def fit(counts: np.ndarray) -> np.ndarray:
            weight = counts[self.episode].astype(float)
            return fitted_q_table(steps, policy, self.gamma, self.shape[0], weight)[state]

        return fit

    def _network(self, counts: np.ndarray) -> np.ndarray:
        kept, dataset = counts[self.episode] > 0, self.dataset
        steps = RecordedSteps(
            dataset.observation,
            self.row[kept],
            self.row[kept] + 1,
            self.chosen[kept],
            dataset.reward[kept],
            1.0 - dataset.terminated[kept],
            np.asarray(self.policy, np.float32),
        )
        key: Any = jax.random.key(self.seed)
        return fitted_q_network(
            dataset.observation_space, steps, key, gamma=self.gamma, iterations=self.shape[0]
        )
