"""Reports for the user: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from advantage.machine import readable

SECONDS_BETWEEN_LINES = 5.0
SHOWN = {
    "rollout/ep_rew_mean": "return",
    "train/approx_kl": "KL",
    "train/start_value": "value of the start",
    "train/gain": "average reward",
    "train/error_bound": "off by at most",
}


class Quiet:
    """Reports only warnings, on standard error."""

    def begin(self, facts: dict[str, Any]) -> None:
        for text in facts["warnings"]:
            print(f"Warning: {text}", file=sys.stderr)

    def update(self, progress: Any) -> None: ...
    def message(self, text: str) -> None: ...
    def end(self) -> None: ...


class Terminal:
    """Reports a training: progress, speed, time left, return and KL divergence; `notice` is printed first."""

    def __init__(self, notice: str = ""):
        self.console, self.notice = Console(), notice
        self.live: Progress | None = None
        self.task: Any = None
        self.last_line = -SECONDS_BETWEEN_LINES

    def begin(self, facts: dict[str, Any]) -> None:
        seeds = facts["seeds"]
        who = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]} at once"
        driver = facts["driver"]
        size, self.planning = readable(driver.nbytes), driver.unit == "iterations"
        if self.planning:
            self.message(
                f"Solving {facts['environment']} with {facts['algorithm']}, whose table takes {size}, in at most "
                f"{facts['total_timesteps']:,} iterations."
            )
        elif driver.unit == "recorded steps":
            self.message(
                f"Training {facts['algorithm']} for {facts['environment']}, {who}, {facts['total_timesteps']:,} steps "
                f"drawn {driver.where}; they take {size}."
            )
        elif driver.candidates:
            self.message(
                f"Searching with {facts['algorithm']} on {facts['environment']}, {who}, {facts['total_timesteps']:,} "
                f"steps, {driver.candidates} candidate{'s' * (driver.candidates > 1)} of {driver.parameters:,} "
                f"parameters a generation, played {driver.where}."
            )
        else:
            self.message(
                f"Training {facts['algorithm']} on {facts['environment']}, {who}, {facts['total_timesteps']:,} steps "
                f"in {facts['num_envs']} environment{'s' * (facts['num_envs'] > 1)} {driver.where}; a rollout "
                f"takes {size}."
            )
        if self.notice:
            self.message(self.notice)
        for text in facts["interface"]:
            self.message(f"Note: {text}")
        for text in facts["warnings"]:
            self.message(f"Warning: {text}")
        if facts["step"]:
            self.message(f"Resuming from step {facts['step']:,}.")
        self.message(f"Run folder: {facts['folders'][0]}" + f" and {len(seeds) - 1} more" * (len(seeds) > 1))
        self.last_line = -SECONDS_BETWEEN_LINES
        if self.console.is_terminal:
            done = (
                "{task.completed:,} iterations"
                if self.planning
                else "{task.completed:,}/{task.total:,} steps"
            )
            columns = [TextColumn(text) for text in (done, "{task.fields[speed]}", "{task.fields[facts]}")]
            bar, left = [BarColumn(bar_width=24)], [TextColumn("ETA"), TimeRemainingColumn()]
            self.live = Progress(
                *(columns if self.planning else [*bar, *columns, *left]),
                console=self.console,
                transient=True,
                refresh_per_second=4,
            )
            total, step = facts["total_timesteps"], facts["step"]
            self.task = self.live.add_task("", total=total, completed=step, speed="compiling", facts="")
            self.live.start()

    def update(self, progress: Any) -> None:
        row = progress.row
        facts = "  ".join(f"{label} {row[name]:.4g}" for name, label in SHOWN.items() if name in row)
        unit = "iterations" if self.planning else "steps"
        speed = f"{row['time/fps']:,.0f} {unit}/s"
        if self.live is not None:
            self.live.update(self.task, completed=progress.step, speed=speed, facts=facts)
            return
        now = time.monotonic()
        if now - self.last_line >= SECONDS_BETWEEN_LINES or progress.step >= progress.total_timesteps:
            self.last_line = now
            left = (progress.total_timesteps - progress.step) / max(row["time/fps"], 1e-9)
            share = progress.step / progress.total_timesteps
            ahead = "" if self.planning else f"{share:4.0%}  "
            left = "" if self.planning else f"ETA {_clock(left)}  "
            self.message(f"{progress.step:>12,} {unit}  {ahead}{speed}  {left}{facts}")

    def message(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
