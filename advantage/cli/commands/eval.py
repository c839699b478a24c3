"""`advantage eval RUN`: play episodes and report each; in a small game count mistakes, and time plans."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial

from advantage.agent import other_agents
from advantage.cli.parse import parse
from advantage.cli.play import Play, agent_and_environment
from advantage.decisions import decision_cost, game_of, mistakes
from advantage.evaluation import evaluate
from advantage.theory.games import solve_game


@dataclasses.dataclass(frozen=True)
class Eval(Play):
    """Play episodes and report them."""

    json: bool = False
    """Print one JSON object instead of lines."""
    cluster: str | None = None
    """Play the episodes as tasks of a Ray cluster: auto, an address, local or local:4."""


def command(arguments: Sequence[str]) -> int:
    """Evaluate a run; returns the exit code."""
    (path,), flags = parse(arguments, "eval RUN", Eval)
    agent, environment = agent_and_environment(path, flags)
    play = partial(evaluate, environment=environment, cluster=flags.cluster, **flags.options)
    result = play(agent)
    others = {name: play(other) for name, other in other_agents(agent).items()}
    game, cost = game_of(environment), decision_cost(agent, environment)
    judged = None if game is None else mistakes(agent, solve_game(game), seed=flags.seed)
    if flags.json:
        rows = {"returns": result.returns.tolist(), "lengths": result.lengths.tolist(), "cut": result.cut}
        also = {f"{name}_candidate": other.mean for name, other in others.items()}
        if judged is not None:
            also |= {"mistake_rate": judged.rate, "mistakes": judged.wrong, "judged": judged.judged}
        if cost is not None:
            also |= {"model_steps": cost.model_steps, "milliseconds_per_decision": cost.milliseconds}
        print(json.dumps(rows | {"mean": result.mean, "std": result.std} | also | flags.options))
        return 0
    for number, (total, length) in enumerate(zip(result.returns, result.lengths, strict=True)):
        print(f"episode {number}: return {total:.2f}, length {length}")
    print(result)
    for name, other in others.items():
        print(f"{name} candidate: {other}")
    for more in (judged, cost):
        if more is not None:
            print(more)
    return 0
