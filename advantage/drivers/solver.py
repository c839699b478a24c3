"""The driver of solvers: nothing is sampled, an iteration improves a plan from the whole table."""

from __future__ import annotations

from typing import Any

import numpy as np

from advantage.drivers.episode_book import NO_EPISODES, Episodes
from advantage.environments.tables.mdp import MDP
from advantage.types import Key, Pytree


class PlanningDriver:
    """Lets a solver improve its plan until it has converged.

    Args:
        planner: a solver in the form of an algorithm: `start(mdp) -> plan`, `improve(mdp, plan) -> plan`,
            `adopt(state, plan) -> state`.
        mdp: the table.
    """

    chunk = per_row = 1
    where = "in this process"

    def __init__(self, planner: Any, mdp: MDP):
        self.planner, self.mdp = planner, mdp
        self.rollout_bytes = mdp.nbytes
        self.plan: Any = None

    def start(self) -> None:
        """The first plan."""
        self.plan = self.planner.start(self.mdp)

    @property
    def finished(self) -> bool:
        """Whether the plan is as good as the solver's tolerance asks."""
        return self.plan is not None and bool(self.plan.converged)

    def iterate(
        self, state: Pytree, run_key: Key, iteration: int, count: int, first_step: int, n_steps: int
    ) -> tuple[Pytree, dict[str, float], Episodes]:
        """One improvement: `-> state, metrics, no episodes`. A bound that is still infinite is left out."""
        self.plan = self.planner.improve(self.mdp, self.plan)
        metrics = {
            "residual": float(self.plan.residual),
            "error_bound": float(self.plan.error_bound),
        }
        if "gain" in self.plan.extra:
            metrics["gain"] = float(self.plan.extra["gain"])
        else:
            metrics["start_value"] = float(self.mdp.start @ self.plan.value)
        metrics = {name: value for name, value in metrics.items() if value != float("inf")}
        return self.planner.adopt(state, self.plan), metrics, NO_EPISODES

    @property
    def verdict(self) -> str:
        """How good the plan is, for people."""
        known = "gain" in self.plan.extra
        name = "average reward" if known else "value of the start"
        value = self.plan.extra["gain"] if known else self.mdp.start @ self.plan.value
        bound = (
            f"off by at most {self.plan.error_bound:.2g}"
            if self.plan.error_bound < float("inf")
            else "no bound"
        )
        return f"{name} {value:.6g}, {bound}"

    def records(self) -> dict[str, np.ndarray]:
        """What a checkpoint needs: the plan."""
        fields = self.plan._asdict()
        extra = {f"extra/{name}": x for name, x in fields.pop("extra").items()}
        return {f"plan/{name}": np.asarray(x) for name, x in (fields | extra).items()}

    def restore(self, records: dict[str, np.ndarray]) -> list[str]:
        """Take the plan back."""
        fields = {name.removeprefix("plan/"): x for name, x in records.items() if name.startswith("plan/")}
        extra = {
            name.removeprefix("extra/"): fields.pop(name) for name in [*fields] if name.startswith("extra/")
        }
        self.start()
        numbers = {name: x if x.ndim else x.item() for name, x in fields.items()}
        self.plan = self.plan._replace(**numbers, extra=extra)
        return []

    def close(self) -> None:
        """Nothing to give back."""
