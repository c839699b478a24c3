"""The number of worker processes that saves time, by measurement."""

from __future__ import annotations

import math
import time

import numpy as np

from advantage.drivers.host.stepper import MakeEnvironment
from advantage.drivers.host.workers import watching_pays
from advantage.environments.environment import closing
from advantage.environments.masks import allowed_action
from advantage.environments.watchdog import Watchdog
from advantage.machine import available_cores

PIPED_ROUND_TRIP = 150e-6  # approximate seconds that it costs to hand a step to worker processes
WATCHED_ROUND_TRIP = 60e-6


def choose_workers(make: MakeEnvironment, num_envs: int) -> int:
    """The number of workers: one for each core but this process's, if that saves more time than it costs; else 0."""
    workers = min(available_cores(), num_envs) - 1
    if workers < 1:
        return 0
    try:
        with Watchdog(lambda: "Measuring a step of the environment, to choose the number of workers,"):
            seconds = _step_seconds(make)
    except (Exception, SystemExit):
        return 0  # the error will be raised again where it can be explained
    saved = seconds * (num_envs - math.ceil(num_envs / (workers + 1)))
    return workers if saved > (WATCHED_ROUND_TRIP if watching_pays(workers) else PIPED_ROUND_TRIP) else 0


def _step_seconds(make: MakeEnvironment) -> float:
    """The median time of a step, over 64 random ones or a quarter of a second."""
    seconds, begin = [], time.perf_counter()
    with closing(make()) as env:
        env.action_space.seed(0)
        obs, _ = env.reset(seed=0)
        for seed in range(1, 65):
            action = allowed_action(env.action_space, env.action_space.sample(), obs)
            start = time.perf_counter()
            obs, _, terminated, truncated, _ = env.step(action)
            seconds.append(time.perf_counter() - start)
            if terminated or truncated:
                obs, _ = env.reset(seed=seed)
            if time.perf_counter() - begin > 0.25 and len(seconds) > 3:
                break
    return float(np.median(seconds))
