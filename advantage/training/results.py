"""The pictures that a run ends with."""

from __future__ import annotations

from collections.abc import Callable

from advantage.agent import Agent
from advantage.algorithms.registry import algorithm_name
from advantage.board.still import write_report
from advantage.environments.environment import Environment
from advantage.report import ModelReport, TableReport, report_of
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.plot import plot_curve
from advantage.training.journal import Journal


def write_pictures(
    journal: Journal, agent: Agent, environment: Environment, *, unit: str, say: Callable[[str], None]
) -> TableReport | ModelReport | None:
    """Write the learning curve, the page `report.html`, and what the report of the agent draws.

    Returns the report, if there is one: a policy in a finite world, the predictions of a model.
    """
    journal.logger.flush()
    report = report_of(agent, environment)
    if report is not None:
        name = f"{algorithm_name(agent.algorithm)} on {environment.name}"
        report.plot(journal.folder, f"{name}\nseed {journal.seed}, after {agent.step:,} {unit}")
    write_report(journal.folder)
    try:  # the curve comes last: where it is, everything is
        plot_curve(journal.folder)
    except CheckpointError as error:
        say(f"curve.png was not drawn: {error}")
    return report
