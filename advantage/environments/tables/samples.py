"""Outcomes from observed transitions: relative frequencies and mean rewards."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from advantage.environments.tables.outcomes import Outcome, OutcomeFunction


class Samples(NamedTuple):
    """Observed transitions, arrays `[N]`."""

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_state: np.ndarray
    terminated: np.ndarray


def sampled_outcomes(
    samples: Samples,
    *,
    n_states: int | None = None,
    n_actions: int | None = None,
    unseen: Literal["refuse", "stay"] = "refuse",
) -> tuple[int, int, OutcomeFunction]:
    """Numbers of states and actions, and the outcomes; see `MDP.from_samples` for the arguments and errors."""
    lengths = [len(column) for column in samples]
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise ValueError(f"The samples have lengths {lengths}; give equal lengths of 1 or more.")
    if unseen not in ("refuse", "stay"):
        raise ValueError(f"unseen={unseen!r} is not allowed; use 'refuse' or 'stay'.")
    if n_states is None:
        n_states = int(max(samples.state.max(), samples.next_state.max())) + 1
    n_actions = int(samples.action.max()) + 1 if n_actions is None else n_actions
    for name, size in (("state", n_states), ("action", n_actions), ("next_state", n_states)):
        numbers = getattr(samples, name)
        wrong = np.flatnonzero((numbers < 0) | (numbers >= size))
        if len(wrong):
            raise ValueError(
                f"{name}[{wrong[0]}] = {numbers[wrong[0]]} is out of range; use 0 to {size - 1}."
            )
    seen: dict[tuple[int, int], dict[tuple[int, bool], list[float]]] = {}
    for s, a, r, successor, ended in zip(*(column.tolist() for column in samples), strict=True):
        seen.setdefault((s, a), {}).setdefault((successor, bool(ended)), []).append(r)
    ends = {successor for outcomes in seen.values() for successor, ended in outcomes if ended}

    def outcomes(s: int, a: int) -> list[Outcome]:
        if (s, a) not in seen:
            if unseen == "refuse" and s not in ends:
                raise ValueError(
                    f"State {s} with action {a} was never seen; take more samples, or pass unseen='stay'."
                )
            return [(1.0, s, 0.0, s in ends)]
        count = sum(map(len, seen[s, a].values()))
        return [
            (len(rewards) / count, successor, float(np.mean(rewards)), ended)
            for (successor, ended), rewards in seen[s, a].items()
        ]

    return n_states, n_actions, outcomes
