"""An evaluation or a film in the middle of a training."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from advantage.agent import Agent, other_agents
from advantage.algorithms.search.policy_search import PolicySearch
from advantage.drivers.host.stepper import EnvironmentFailure
from advantage.environments.defect import MissingExtra
from advantage.environments.environment import Environment
from advantage.evaluation import Evaluation, evaluate
from advantage.film import watch
from advantage.runs.folder import RunFolder
from advantage.runs.patience import saying


def evaluate_and_say(
    agent: Agent, environment: Environment, *, episodes: int, seed: int, who: str, say: Callable[[str], None]
) -> Evaluation:
    """The evaluation of an agent; that of the others in its state, such as a mean policy, is said only."""
    with saying(f"Evaluating: {episodes} episodes.", say):
        result = evaluate(agent, environment, episodes=episodes, seed=seed)
    who += f"{agent.algorithm.play}: " if isinstance(agent.algorithm, PolicySearch) else ""
    say(f"Evaluation at step {agent.step:_}: {who}{result}")
    for name, other in other_agents(agent).items():
        said = evaluate(other, environment, episodes=episodes, seed=seed)
        say(f"Evaluation at step {agent.step:_}: {name}: {said}")
    return result


class Films:
    """Films one greedy episode of an agent, as `videos/step_N.mp4`. The run goes on without what cannot be filmed."""

    def __init__(self, environment: Environment, say: Callable[[str], None]):
        self.environment, self.say = environment, say
        self.faults: set[str] = set()

    def add(self, agent: Agent, folder: RunFolder, seed: int) -> None:
        """Film an episode, or say why that is not possible, each reason once."""
        file = folder.videos / f"step_{agent.step:010d}.mp4"
        try:
            list(watch(agent, self.environment, file, seed=seed))
        except (ValueError, MissingExtra, OSError, EnvironmentFailure) as error:
            if str(error) not in self.faults:
                self.faults.add(str(error))
                own = isinstance(error, EnvironmentFailure) and error.__cause__
                trace = "".join(traceback.format_exception(own)) if own else ""
                self.say(f"{trace}No film at step {agent.step:_}, and the run goes on without: {error}")
