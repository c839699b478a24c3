"""Learning in tables on the cliff: many seeds on the device, compared with the textbook's loop over Gymnasium.

python benchmarks/tabular.py [--seeds 1000] [--episodes 500] [--loop-seeds 3] [--repeats 3]

Prints environment steps per second. The loop is that of textbooks and their repositories: one seed at a time, a NumPy
table, Gymnasium's CliffWalking-v1 without its checker. Ours is the device driver on the same table with all seeds in
parallel, until every seed has played its episodes; compilation is not included. Random actions in the same driver,
without learning, show the cost of stepping alone. The repeats take turns, and the table shows medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

import advantage as adv
from advantage.algorithms.clock import advance_clock, clock_init
from advantage.drivers.device import DeviceDriver
from advantage.environments.make import make
from advantage.types import Clock, Spec, no_memory

ALPHA, EPSILON, GAMMA = 0.5, 0.1, 1.0


class Result(NamedTuple):
    """Environment steps per second, and the mean return of the episodes from the 101st on."""

    rate: float
    mean_return: float


class RandomState(NamedTuple):
    """A state with only the clock."""

    clock: Clock


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class RandomActions:
    """Random actions without learning, to measure only the world and the driver."""

    n_actions: int
    n_steps: int = 1

    def init(self, key: Any, spec: Spec) -> RandomState:
        return RandomState(clock_init(spec.total_timesteps))

    def actor(self, state: RandomState) -> RandomState:
        return state

    initial_memory = no_memory

    def noise(self, actor: RandomState, key: Any, shape: tuple[int, ...]) -> Any:
        return jax.random.uniform(key, shape)

    def act(self, actor: RandomState, obs: Any, memory: Any, noise: Any) -> tuple[Any, Any, Any]:
        return (noise * self.n_actions).astype(jnp.int32), memory, ()

    def greedy(self, actor: RandomState, obs: Any, memory: Any) -> tuple[Any, Any]:
        return jnp.zeros_like(obs), memory

    def update(self, state: RandomState, rollout: Any, key: Any) -> tuple[RandomState, dict[str, Any]]:
        return RandomState(advance_clock(state.clock, rollout.reward.size)), {}


def on_device(algorithm: Any, seeds: int, episodes: int, most_steps: int) -> Result:
    """All seeds at once, until each has played its episodes or `most_steps` steps; the first call compiles."""
    world = make("jax/CliffWalking-v1")
    spec = Spec(world.observation_space, world.action_space, 1, most_steps)
    keys = jax.vmap(jax.random.key)(np.arange(3 * seeds)).reshape(3, seeds)
    driver = DeviceDriver(algorithm, world, spec, seeds)

    def begin() -> Any:
        return driver.start(jax.vmap(lambda key: algorithm.init(key, spec))(keys[1]), keys[0])

    driver.iterate(begin(), keys[2], driver.span(0, 0, most_steps))
    state = begin()
    returns: list[list[np.ndarray]] = [[] for _ in range(seeds)]
    taken, started = 0, time.perf_counter()
    while taken < most_steps and min(sum(map(len, mine)) for mine in returns) < episodes:
        span = driver.span(taken, taken, most_steps)
        state, _, finished, *_ = driver.iterate(state, keys[2], span)
        taken += span.count
        for mine, new in zip(returns, finished, strict=True):
            mine.append(new.returns)
    jax.block_until_ready(state)
    rate = taken * seeds / (time.perf_counter() - started)
    later = np.concatenate([np.concatenate(mine)[100:episodes] for mine in returns])
    return Result(rate, float(later.mean()) if later.size else math.nan)


def choose(q: np.ndarray, s: int, rng: np.random.Generator) -> int:
    """Epsilon-greedy; takes the first of several best actions, as such loops do for speed."""
    return int(rng.integers(4)) if rng.random() < EPSILON else int(q[s].argmax())


def loop(sarsa: bool, seeds: int, episodes: int) -> Result:
    """The textbook's loop, one seed after another."""
    env = gymnasium.make("CliffWalking-v1", disable_env_checker=True)
    steps, returns, started = 0, [], time.perf_counter()
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        q = np.zeros((48, 4))
        for episode in range(episodes):
            s, _ = env.reset(seed=seed if episode == 0 else None)
            a, done, earned = choose(q, s, rng), False, 0.0
            while not done:
                next_s, reward, terminated, truncated, _ = env.step(a)
                r, done = float(reward), terminated or truncated
                next_a = choose(q, next_s, rng)
                value = 0.0 if terminated else q[next_s, next_a] if sarsa else q[next_s].max()
                q[s, a] += ALPHA * (r + GAMMA * value - q[s, a])
                s, a, earned, steps = next_s, next_a, earned + r, steps + 1
            if episode >= 100:
                returns.append(earned)
    return Result(steps / (time.perf_counter() - started), float(np.mean(returns)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--episodes", type=int, default=500)
    parser.add_argument("--loop-seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    seeds, episodes = arguments.seeds, arguments.episodes
    limit = 100 * episodes
    jobs: dict[str, tuple[Callable[[], Result], Callable[[], Result]]] = {
        "Q-learning": (
            lambda: on_device(
                adv.QLearning(learning_rate=ALPHA, epsilon=EPSILON, gamma=GAMMA), seeds, episodes, limit
            ),
            lambda: loop(False, arguments.loop_seeds, episodes),
        ),
        "SARSA": (
            lambda: on_device(
                adv.Sarsa(learning_rate=ALPHA, epsilon=EPSILON, gamma=GAMMA), seeds, episodes, limit
            ),
            lambda: loop(True, arguments.loop_seeds, episodes),
        ),
    }
    measured: dict[tuple[str, str], list[Result]] = {}
    for _ in range(arguments.repeats):
        bare = on_device(RandomActions(4), seeds, episodes, 10_000)
        measured.setdefault(("random actions", "advantage"), []).append(bare)
        for name, (ours, theirs) in jobs.items():
            measured.setdefault((name, "advantage"), []).append(ours())
            measured.setdefault((name, "loop"), []).append(theirs())
    rate = {job: statistics.median(result.rate for result in results) for job, results in measured.items()}
    earned = {
        job: statistics.mean(result.mean_return for result in results) for job, results in measured.items()
    }
    limit_rate = rate["random actions", "advantage"]
    print(f"{jax.devices()[0].platform}, {seeds} seeds, {episodes} episodes")
    print("| | advantage, steps/s | loop, steps/s | ratio | of stepping alone | return from episode 101 on |")
    print("|---|---:|---:|---:|---:|---:|")
    print(f"| random actions, no learning | {limit_rate:,.0f} | – | – | 100% | – |")
    for name in jobs:
        ours, theirs = (name, "advantage"), (name, "loop")
        print(
            f"| {name} | **{rate[ours]:,.0f}** | {rate[theirs]:,.0f} | {rate[ours] / rate[theirs]:.0f}× | "
            f"{rate[ours] / limit_rate:.0%} | {earned[ours]:.1f} (loop {earned[theirs]:.1f}) |"
        )


if __name__ == "__main__":
    main()
