"""`advantage ope RUN FILE`: what a policy would earn, from recorded episodes of another one."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

from advantage.cli.parse import parse
from advantage.estimators.off_policy_evaluation import Estimate
from advantage.offline_evaluation import FEW, evaluate_offline


@dataclasses.dataclass(frozen=True)
class OPE:
    """Off-policy evaluation: estimate what `eval` would find from recorded episodes; nothing is played.

    FILE was written by `advantage record`, or is a Minari dataset. Intervals are of 95 %.
    """

    gamma: float = 1.0
    """Discount per step; 1 is the undiscounted return, as eval reports it."""
    stochastic: bool = False
    """Judge the policy that draws its actions, instead of the one that takes the most likely."""
    seed: int = 0
    """Seed of the resamples and of fitted networks."""
    json: bool = False
    """Print one JSON object instead of lines."""


def command(arguments: Sequence[str]) -> int:
    """Estimate the value of a run's policy; returns the exit code."""
    (run, file), flags = parse(arguments, "ope RUN FILE", OPE)
    found = evaluate_offline(
        run, file, gamma=flags.gamma, deterministic=not flags.stochastic, seed=flags.seed
    )
    if flags.json:
        rows = {name: _numbers(estimate) for name, estimate in found.estimates.items()}
        facts = {"effective_episodes": _number(found.effective), "episodes": found.episodes}
        print(
            json.dumps(
                {"estimates": rows, "recorded": _numbers(found.recorded), "gamma": found.gamma} | facts
            )
        )
        return 0
    for name, estimate in found.estimates.items():
        print(f"{name:<20} {_shown(estimate)}")
    print(f"{'recorded':<20} {_shown(found.recorded)}, the policy that acted, {found.episodes:,} episodes")
    if math.isnan(found.effective):
        print(
            "The file has no log-probabilities of its actions, which the other estimates need; advantage record "
            "keeps them for Discrete actions."
        )
    else:
        few = f", which is below {FEW}: the intervals of all but fitted-q may be too narrow" * (
            found.effective < FEW
        )
        print(f"By its weights the file is worth {found.effective:,.1f} episodes of this policy{few}.")
    return 0


def _shown(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "none: no recorded episode could be one of this policy"
    if math.isnan(estimate.low):
        return f"{estimate.value:.4g}, without an interval"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def _numbers(estimate: Estimate) -> dict[str, float | None]:
    return {name: _number(x) for name, x in estimate._asdict().items()}


def _number(x: float) -> float | None:
    return None if math.isnan(x) else x
