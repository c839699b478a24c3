"""The driver of solvers: nothing is sampled; an iteration improves a plan with the whole table."""

from __future__ import annotations

import numpy as np

from advantage.algorithms.dynamic_programming.plan import Plan
from advantage.algorithms.dynamic_programming.planner import Planner
from advantage.drivers.episode_book import NO_EPISODES
from advantage.drivers.only_seed import only_seed
from advantage.drivers.records import check_records, kind_of
from advantage.environments.tables.mdp import MDP
from advantage.types import DriverFacts, Iterated, Key, Pytree, Span

ONE = np.ones(1, np.int64)
ALL_LOGGED = (
    4096  # iterations; later ones are thinned, so that 2^32 of them, which is the limit, take less than 10 MB
)


def is_logged(iteration: int) -> bool:
    """Whether an iteration, from 1, is written to the logs: all of the first, then half as densely with each doubling.

    With N = `ALL_LOGGED`, iterations up to N, every second one up to 2N, every fourth one up to 4N, and so on.
    """
    return iteration % 2 ** ((iteration - 1) // ALL_LOGGED).bit_length() == 0


class SolverDriver:
    """Lets a solver improve its plan until it has converged; the budget, `total_timesteps`, counts iterations."""

    def __init__(self, planner: Planner, mdp: MDP, total_timesteps: int):
        self.planner, self.mdp, self.total = planner, mdp, total_timesteps
        self.plan: Plan | None = None

    @property
    def facts(self) -> DriverFacts:
        """The table's size, for the user."""
        return DriverFacts("in this process", unit="iterations", nbytes=self.mdp.nbytes)

    @property
    def finished(self) -> bool:
        """Whether the plan has converged to the solver's tolerance, or is a fixed point, which no iteration changes."""
        return self.plan is not None and (bool(self.plan.converged) or self.plan.residual == 0)

    def start(self, states: Pytree, keys: Key) -> Pytree:
        """Make the first plan; returns the state of the only seed, without its axis."""
        self.plan = self.planner.start(self.mdp)
        return only_seed(states)

    def state_of(self, state: Pytree, seed: int) -> Pytree:
        """The state as it is: there is one seed."""
        return state

    def span(self, iteration: int, step: int, until: int) -> Span:
        """One improvement, which counts as one step."""
        return Span(iteration, 1, step, 1)

    def iterate(self, state: Pytree, run_keys: Key, span: Span) -> Iterated:
        """Improve the plan once. A bound that is still infinite is left out of the metrics.

        The last iteration of a run is always logged, others as `is_logged` says.
        """
        assert self.plan is not None
        self.plan = plan = self.planner.improve(self.mdp, self.plan)
        name, value = self._objective(plan)
        metrics = {"residual": plan.residual, "error_bound": plan.error_bound, name: value}
        row = {name: np.full((1, 1), value, float) for name, value in metrics.items() if value != np.inf}
        done = span.first_step + 1
        logged = is_logged(done) or self.finished or done >= self.total
        return Iterated(self.planner.adopt(state, plan), row, [NO_EPISODES], ONE, ONE, logged)

    def _objective(self, plan: Plan) -> tuple[str, float]:
        """The plan's objective: its name among the metrics and its value."""
        if "gain" in plan.extra:
            return "gain", float(plan.extra["gain"])
        return "start_value", float(self.mdp.start @ plan.value)

    def conclusion(self, step: int) -> list[str]:
        """The plan's objective and its error bound."""
        assert self.plan is not None
        name, value = self._objective(self.plan)
        known = {"gain": "average reward", "start_value": "value of the start"}[name]
        finite = self.plan.error_bound < np.inf
        bound = f"off by at most {self.plan.error_bound:.2g}" if finite else "no bound"
        if not self.plan.converged and self.finished:
            bound += "; no iteration changes the plan any more, so a smaller tolerance cannot be reached"
        return [f"{known} {value:.6g}, {bound}"]

    def records(self, seed: int) -> dict[str, np.ndarray]:
        """What a checkpoint needs: the plan."""
        assert self.plan is not None
        return self._records_of(self.plan)

    def _records_of(self, plan: Plan) -> dict[str, np.ndarray]:
        fields = plan._asdict()
        extra = {f"extra/{name}": x for name, x in fields.pop("extra").items()}
        return {f"plan/{name}": np.asarray(x) for name, x in (fields | extra).items()}

    def restore(self, state: Pytree, keys: Key, records: dict[str, np.ndarray]) -> tuple[Pytree, list[str]]:
        """Restore the plan. Raises RecordFault if the records are not those of a plan for this table."""
        sizes = {self.mdp.n_states, self.mdp.n_actions}
        later = {
            name: kind_of(x)._replace(finite=True)  # a method's results, which its first plan lacks
            for name, x in records.items()
            if name.startswith("plan/extra/") and sizes.issuperset(x.shape)
        }
        kinds = later | {
            name: kind_of(x) for name, x in self._records_of(self.planner.start(self.mdp)).items()
        }
        highest = {"plan/policy": self.mdp.n_actions - 1, "plan/error_bound": np.inf, "plan/residual": np.inf}
        kinds |= {name: kinds[name]._replace(low=0, high=high) for name, high in highest.items()}
        check_records(records, kinds)
        fields = {name.removeprefix("plan/"): x for name, x in records.items() if name.startswith("plan/")}
        extra = {
            name.removeprefix("extra/"): fields.pop(name) for name in [*fields] if name.startswith("extra/")
        }
        numbers = {name: x if x.ndim else x.item() for name, x in fields.items()}
        self.plan = self.planner.start(self.mdp)._replace(**numbers, extra=extra)
        return state, []

    def close(self) -> None:
        """There is nothing to close."""
