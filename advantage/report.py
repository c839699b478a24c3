"""What an agent has learned, as text and as a picture: a policy in a finite world, or a model of the world."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from advantage.agent import Agent
from advantage.algorithms.actors import actor_values
from advantage.algorithms.planning.shared.learning import ModelLearning, PlanningState
from advantage.algorithms.planning.world_model import WorldModel
from advantage.environments.environment import Environment
from advantage.environments.make import table_of
from advantage.environments.masks import ACTION_MASK, OBSERVATION, split_mask
from advantage.environments.tables.ends import goals
from advantage.environments.tables.mdp import MDP, reachable
from advantage.evaluation import Evaluation
from advantage.models.open_loop import open_loop, open_loop_counts
from advantage.replay.ring import uniform_draw
from advantage.replay.sequences import sequences_at
from advantage.runs.folder import RunFolder
from advantage.runs.grid import Cells, grid_text, plot_grid
from advantage.runs.predictions import Predictions, plot_predictions
from advantage.types import Array

SEQUENCES = 3  # that a picture of a model shows
DRAWN = 64  # of which they are the longest
LARGEST_EXACT = 10**8  # state-action pairs times steps up to which the exact success rate is computed


class TableReport(NamedTuple):
    """The policy of an agent in a finite world.

    Attributes:
        mdp: the world.
        policy: int32 `[S]`, the action in each state.
        value: `[S]`, the agent's estimate of the value of each state.
    """

    mdp: MDP
    policy: np.ndarray
    value: np.ndarray

    def lines(self, evaluation: Evaluation | None, conclusion: list[str]) -> list[str]:
        """Text for the user: how the run ended or the value of the start, the success rate, the policy."""
        lines = conclusion or [f"value of the start {self.mdp.start @ self.value:.6g}"]
        if self._is_success_or_failure():
            lines += self._success_rate(evaluation)
        if self.mdp.grid is not None:
            lines += grid_text(
                self.mdp.grid, self.policy, self.mdp.terminal, reachable(self.mdp)
            ).splitlines()
        return lines

    def plot(self, folder: RunFolder, title: str) -> None:
        """Draw policy.png if the world is a grid."""
        if self.mdp.grid is not None:
            cells = Cells(self.value, self.policy, self.mdp.terminal, goals(self.mdp), reachable(self.mdp))
            plot_grid(folder.policy_path, title, self.mdp.grid, cells)

    def _success_rate(self, evaluation: Evaluation | None) -> list[str]:
        from advantage.theory.objectives import finite_horizon_performance  # slow to import, seldom needed

        steps, parts = self.mdp.max_episode_steps, []
        if steps * self.mdp.n_states * self.mdp.n_actions <= LARGEST_EXACT:
            exact = finite_horizon_performance(self.mdp, self.policy, steps)
            parts.append(f"{exact:.1%} within {steps:,} steps, exactly")
        if evaluation is not None:
            parts.append(f"{evaluation.mean:.1%} of {len(evaluation.returns)} episodes played")
        return [f"success rate {'; '.join(parts)}"] if parts else []

    def _is_success_or_failure(self) -> bool:
        """Whether the return of an episode is 1 if it ends well, and 0 otherwise."""
        reward = self.mdp.reward.data if self.mdp.is_sparse and self.mdp.reward.ndim == 2 else self.mdp.reward
        going_on = self.mdp.expected((~self.mdp.terminal).astype(float))
        rewarded = np.asarray(self.mdp.expected_reward) > 0
        return bool(
            self.mdp.terminal.any() and np.isin(reward, (0, 1)).all() and (going_on[rewarded] < 1).all()
        )


def table_report(agent: Agent, target: Environment) -> TableReport | None:
    """The report on a tabular agent in a finite world; None for other agents and environments."""
    seen, mask = split_mask(agent.spec.observation_space)
    if mask is not None and isinstance(seen, gymnasium.spaces.Dict):
        seen = seen.spaces.get(OBSERVATION)
    if not isinstance(seen, gymnasium.spaces.Discrete):
        return None
    value = actor_values(agent.actor.actor)
    if value is None:
        return None
    try:
        mdp = table_of(target)
    except ValueError:
        return None
    if value.shape != (mdp.n_states,):
        return None
    states = np.arange(mdp.n_states)
    every = np.ones((mdp.n_states, mdp.n_actions), np.int8)
    obs = states if mask is None else {OBSERVATION: states, ACTION_MASK: every}
    policy, _ = agent.actor.greedy(obs, ())
    return TableReport(mdp, np.asarray(policy, np.int32), value)


class ModelReport(NamedTuple):
    """What a learned model predicts, beside what happened."""

    predictions: Predictions

    def lines(self, evaluation: Evaluation | None, conclusion: list[str]) -> list[str]:
        """Text for the user: what is drawn."""
        horizon, sequences = self.predictions.true.shape[:2]
        return [
            *conclusion,
            f"{sequences} sequences of {horizon - 1} steps, predicted and true, are in model.png",
        ]

    def plot(self, folder: RunFolder, title: str) -> None:
        """Draw model.png."""
        plot_predictions(folder.model_path, title, self.predictions)


def report_of(agent: Agent, target: Environment) -> TableReport | ModelReport | None:
    """The report on what an agent has learned; None if there is nothing to show."""
    if isinstance(agent.algorithm, WorldModel):
        return model_report(agent.state, agent.algorithm.horizon)
    return table_report(agent, target)


def model_report(state: PlanningState, horizon: int) -> ModelReport | None:
    """The longest of some sequences from the replay buffer, with what each network predicts; None without experience.

    A prediction has the first observation and all actions. Beyond an end of an episode there is none.
    """
    learning = state.learning
    if learning is None or int(learning.replay.stored) == 0:
        return None
    return ModelReport(Predictions(*map(np.asarray, _paths(learning, horizon))))


@partial(jax.jit, static_argnames="horizon")
def _paths(learning: ModelLearning, horizon: int) -> tuple[Array, Array]:
    """True observations `[H + 1, N, d]`, and those that each network predicts, `[H + 1, N, E, d]`."""
    index = uniform_draw(learning.replay, jax.random.key(0), DRAWN)
    lengths = open_loop_counts(sequences_at(learning.replay, index, length=horizon)).sum(0)
    longest = index[jnp.argsort(-lengths)[:SEQUENCES]]
    members, vector = learning.ensemble.members, learning.spaces.vector
    rows = sequences_at(learning.replay, jnp.repeat(longest, members), length=horizon)
    begin = vector(jax.tree.map(lambda leaf: leaf[0], rows.obs))[None]
    counts = open_loop_counts(rows)[..., None]

    def path(after: Array) -> Array:
        whole = jnp.concatenate([begin, jnp.where(counts, after, jnp.nan)])
        return whole.reshape(horizon + 1, SEQUENCES, members, -1)

    true = path(jax.vmap(vector)(rows.next_obs))[:, :, 0]
    return true, path(open_loop(learning.model, rows, jax.random.key(0)))
