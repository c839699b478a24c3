"""What a run's own logs say is wrong with it, and what to try: rules with a threshold, evidence and a source each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advantage.comparison.run_data import find_runs, is_run, learning_options
from advantage.plain_values import plain_paths
from advantage.runs.folder import RunFolder, read_config
from advantage.runs.log import read_episodes, read_progress

FEWEST_ROWS = 6  # of a log from which a rule draws a conclusion


class RunFacts(NamedTuple):
    """What the rules look at.

    Attributes:
        path: the run folder.
        algorithm, environment, seed: from its config.json.
        hyperparameters, training: options, by name.
        progress: columns of progress.csv by name, NaN where a cell is empty.
        returns, lengths, steps: of training episodes, in order of time.
    """

    path: Path
    algorithm: str
    environment: str
    seed: int
    hyperparameters: dict[str, Any]
    training: dict[str, Any]
    progress: dict[str, np.ndarray]
    returns: np.ndarray
    lengths: np.ndarray
    steps: np.ndarray

    def logged(self, name: str) -> np.ndarray:
        """The values of a column that are there; empty if the method does not log it."""
        column = np.asarray(self.progress.get(name, np.zeros(0)), float)
        return column[np.isfinite(column)]

    @property
    def step(self) -> int:
        """Environment steps so far."""
        steps = self.logged("step")
        return int(max([*steps[-1:], *self.steps[-1:], 0]))


class Finding(NamedTuple):
    """Something that a rule has found.

    Attributes:
        rule: its name.
        evidence: what the logs say, with the threshold.
        advice: what to try.
        source: where the rule is from.
    """

    rule: str
    evidence: str
    advice: str
    source: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.evidence} {self.advice} ({self.source})"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule: `find` returns the evidence, or None."""

    name: str
    find: Callable[[RunFacts], str | None]
    advice: str
    source: str

    def __call__(self, run: RunFacts) -> Finding | None:
        evidence = self.find(run)
        return None if evidence is None else Finding(self.name, evidence, self.advice, self.source)


def _late(values: np.ndarray) -> np.ndarray:
    """The second half."""
    return values[len(values) // 2 :]


def _kl(run: RunFacts) -> str | None:
    kl = run.logged("train/approx_kl")
    if run.algorithm == "impala" or len(kl) < FEWEST_ROWS or _late(kl).mean() <= 0.05:
        return None
    return f"an update moves the policy by {_late(kl).mean():.3f} nats on average, above 0.05."


def _clip_fraction(run: RunFacts) -> str | None:
    share = run.logged("train/clip_fraction")
    if run.algorithm == "impala" or len(share) < FEWEST_ROWS or _late(share).mean() <= 0.4:
        return None
    return f"{100 * _late(share).mean():.0f} % of the samples are clipped, above 40 %."


def _entropy(run: RunFacts) -> str | None:
    entropy = run.logged("train/entropy")
    if len(entropy) < FEWEST_ROWS or entropy[0] <= 0.05 or (entropy < -1e-6).any():
        return None  # of a density, entropy says nothing by itself
    early = entropy[: max(2, len(entropy) // 3)]
    if early[-1] >= 0.02 * entropy[0]:
        return None
    return (
        f"within the first third of the run the entropy fell from {entropy[0]:.2f} to {early[-1]:.4f} nats, below a "
        "fiftieth."
    )


def _explained_variance(run: RunFacts) -> str | None:
    explained, loss = run.logged("train/explained_variance"), run.logged("train/value_loss")
    if len(explained) < FEWEST_ROWS or _late(explained).mean() >= -0.1:
        return None
    if (
        len(loss) and _late(loss).mean() < 0.01 * loss.max()
    ):  # returns that are nearly equal leave little to explain
        return None
    return f"the critic explains {_late(explained).mean():.2f} of the variance of returns, below -0.1."


def _values(run: RunFacts) -> str | None:
    values = np.abs(run.logged("train/action_value"))
    if len(values) < FEWEST_ROWS or not len(run.returns):
        return None
    largest = np.abs(run.returns).max()
    if values[-1] <= 5 * (largest + 1):
        return None
    return f"action values have grown to {values[-1]:.3g}, five times the largest return of an episode, {largest:.3g}."


def _no_reward(run: RunFacts) -> str | None:
    if len(run.returns) < 20 or np.abs(run.returns).max() > 0:
        return None
    return f"none of {len(run.returns)} episodes had a return other than 0."


def _all_equal(run: RunFacts) -> str | None:
    returns = run.returns
    if len(returns) < 20 or returns[0] == 0 or np.ptp(returns[-max(20, len(returns) // 2) :]) > 0:
        return None
    first = np.ptp(returns) == 0
    if not first:  # it has reached the best that there is, or has given up; the first half tells them apart
        early = returns[: len(returns) // 2]
        if returns[-1] >= early.max():
            return None
    return f"the last {max(20, len(returns) // 2)} episodes all returned {returns[-1]:.6g}, so no action looks better."


def _endless(run: RunFacts) -> str | None:
    if len(run.returns) or run.step < 20_000 or run.algorithm == "behaviour-cloning":  # it plays none
        return None
    return f"no episode has ended in {run.step:_} steps."


def _few_updates(run: RunFacts) -> str | None:
    updates = run.logged("iteration")
    budget = run.training.get("total_timesteps", 0)
    if (
        run.step < budget
        or not len(updates)
        or run.hyperparameters.get("n_steps", 1) < 8
        or updates[-1] >= 20
    ):
        return None
    return f"the whole run has {int(updates[-1])} updates, below 20."


def _old_replay(run: RunFacts) -> str | None:
    size = run.hyperparameters.get("buffer_size")
    steps, each = run.hyperparameters.get("gradient_steps"), run.hyperparameters.get("n_steps", 1)
    if not isinstance(size, int) or not isinstance(steps, int) or len(run.returns) < 40:
        return None
    age = min(size, run.step) / run.training.get("num_envs", 1) * steps / each
    blocks = np.array([block.mean() for block in np.array_split(run.returns, 10)])
    fell = blocks.max() - blocks[-1] > 0.5 * np.ptp(blocks) and blocks.argmax() < 8
    if age <= 100_000 or not fell:
        return None
    return (
        f"the oldest transitions are {age:_.0f} gradient steps old, above 100_000, and returns fell from "
        f"{blocks.max():.4g} to {blocks[-1]:.4g}."
    )


def _large_observations(run: RunFacts) -> str | None:
    if run.hyperparameters.get("normalize_observation") is not False:
        return None
    spread = run.logged("train/value_loss")
    if (
        len(spread) < FEWEST_ROWS
        or _late(spread).mean() <= 1e4
        or run.hyperparameters.get("normalize_reward")
    ):
        return None
    loss = _late(spread).mean()
    return f"the loss of the critic is {loss:.3g}, above 10,000, with unscaled observations and rewards."


RULES = (
    Rule(
        "policy moves too far",
        _kl,
        "Lower the learning rate or the number of epochs, or aim at a KL (--objective adaptive-kl).",
        "Schulman et al. 2017, PPO, table 1: targets of 0.003 to 0.03",
    ),
    Rule(
        "clipping is saturated",
        _clip_fraction,
        "Lower the learning rate or n_epochs: most samples no longer have a gradient.",
        "Engstrom et al. 2020, Implementation matters in deep policy gradients, section 4",
    ),
    Rule(
        "exploration ended early",
        _entropy,
        "Raise ent_coef, or lower the learning rate.",
        "Mnih et al. 2016, Asynchronous methods for deep reinforcement learning, section 4",
    ),
    Rule(
        "critic is worse than a constant",
        _explained_variance,
        "Raise vf_coef or the critic's learning rate, scale rewards (--normalize-reward), or look at gamma.",
        "Schulman 2016, Nuts and bolts of deep RL research",
    ),
    Rule(
        "values explode",
        _values,
        "Lower the learning rate or tau, take two critics (td3, sac), or shorten n.",
        "van Hasselt et al. 2018, Deep reinforcement learning and the deadly triad, section 4",
    ),
    Rule(
        "reward is never seen",
        _no_reward,
        "Explore more (ent_coef, epsilon, a search), shape the reward, or begin nearer to it.",
        "Sutton & Barto 2018, Reinforcement learning, section 17.4",
    ),
    Rule(
        "advantages are all equal",
        _all_equal,
        "Look at the reward and at the start of episodes: every episode ends the same.",
        "Schulman 2016, Nuts and bolts of deep RL research",
    ),
    Rule(
        "episodes never end",
        _endless,
        "Give the environment a time limit (gymnasium.wrappers.TimeLimit): without it no return is ever known.",
        "Pardo et al. 2018, Time limits in reinforcement learning",
    ),
    Rule(
        "too few updates",
        _few_updates,
        "Take a larger budget, or smaller rollouts (n_steps, num_envs).",
        "Andrychowicz et al. 2021, What matters for on-policy deep actor-critic methods?, section 3.5",
    ),
    Rule(
        "replay is too old",
        _old_replay,
        "Use a smaller buffer_size, or fewer gradient_steps.",
        "Fedus et al. 2020, Revisiting fundamentals of experience replay, section 4",
    ),
    Rule(
        "inputs are not scaled",
        _large_observations,
        "Scale them: --normalize-observation, --normalize-reward.",
        "Andrychowicz et al. 2021, What matters for on-policy deep actor-critic methods?, section 3.3",
    ),
)
SEEDS = Rule(
    "seeds disagree",
    lambda run: None,
    "Train more seeds (--num-seeds) before you conclude anything, and compare with intervals (advantage compare).",
    "Henderson et al. 2018, Deep reinforcement learning that matters, section 4.2",
)


def diagnose(paths: str | Path | Iterable[str | Path]) -> dict[Path, list[Finding]]:
    """What the logs of runs say is wrong with them, by run folder; an empty list where no rule applies.

    Args:
        paths: run folders, folders of run folders, or patterns. Of runs that differ only in their seeds, three or more,
            it also says whether their final returns disagree.

    Raises:
        ValueError: there is no run.
        FileNotFoundError: a folder with logs or checkpoints has no config.json.
        CheckpointError: a config.json or a log is damaged.
    """
    given = plain_paths("paths", paths)
    below, left_out = find_runs(given)
    folders = list(filter(is_run, below))  # beside its runs a study has other folders
    if not folders:
        raise ValueError(
            f"There is no run at {', '.join(map(str, given))}"
            + "".join(f" ({each.path} {each.reason})" for each in left_out)
            + "; give a run folder."
        )
    runs = [read_facts(folder) for folder in folders]
    found = {run.path: [finding for rule in RULES if (finding := rule(run)) is not None] for run in runs}
    for run, finding in disagreements(runs):
        found[run.path].append(finding)
    return found


def read_facts(path: Path) -> RunFacts:
    """The facts of a run folder."""
    folder = RunFolder(path)
    config: dict[str, Any] = read_config(
        folder, ("algorithm", "environment", "hyperparameters", "seed", "training")
    )
    episodes = read_episodes(folder, ("r", "l", "step"))
    order = np.argsort(episodes["step"], kind="stable")
    returns, lengths, steps = (np.asarray(episodes[name], float)[order] for name in ("r", "l", "step"))
    return RunFacts(
        path,
        str(config["algorithm"]),
        str(config["environment"]),
        int(config["seed"]),
        dict(config["hyperparameters"]),
        dict(config["training"]),
        read_progress(folder),
        returns,
        lengths,
        steps,
    )


def disagreements(runs: Sequence[RunFacts]) -> list[tuple[RunFacts, Finding]]:
    """The groups of three seeds or more whose final returns lie further apart than half of what was gained."""
    groups: dict[str, list[RunFacts]] = {}
    for run in runs:
        what = [run.algorithm, run.environment, run.hyperparameters, learning_options(run.training)]
        name = json.dumps(what, sort_keys=True, default=str)
        groups.setdefault(name, []).append(run)
    found = []
    for group in groups.values():
        group = [run for run in group if len(run.returns) >= 20]
        if len({run.seed for run in group}) < 3:
            continue
        tenth = [max(5, len(run.returns) // 10) for run in group]
        last = np.array([run.returns[-n:].mean() for run, n in zip(group, tenth, strict=True)])
        first = np.array([run.returns[:n].mean() for run, n in zip(group, tenth, strict=True)])
        gained = np.abs(last.mean() - first.mean())
        if np.ptp(last) > 0.5 * gained and np.ptp(last) > 0.1 * np.abs(last).max():
            evidence = (
                f"the final returns of {len(group)} seeds lie between {last.min():.4g} and {last.max():.4g}, and "
                f"training gained {gained:.4g}: the spread is above half of that."
            )
            found.append((group[0], Finding(SEEDS.name, evidence, SEEDS.advice, SEEDS.source)))
    return found
