"""`advantage eval RUN`: play episodes and report each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial

from advantage.agent import other_agents
from advantage.cli.parse import parse
from advantage.cli.play import Play, agent_and_environment
from advantage.evaluation import evaluate


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
    if flags.json:
        rows = {"returns": result.returns.tolist(), "lengths": result.lengths.tolist(), "cut": result.cut}
        also = {f"{name}_candidate": other.mean for name, other in others.items()}
        print(json.dumps(rows | {"mean": result.mean, "std": result.std} | also | flags.options))
        return 0
    for number, (total, length) in enumerate(zip(result.returns, result.lengths, strict=True)):
        print(f"episode {number}: return {total:.2f}, length {length}")
    print(result)
    for name, other in others.items():
        print(f"{name} candidate: {other}")
    return 0
