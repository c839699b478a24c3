"""What a cluster costs and brings, with all its processes on this machine.

    .venv/bin/python benchmarks/cluster.py [scaling] [overhead] [minibatch] [late] [a3c] [correction] [kills]
        [--nodes N]

scaling    steps a second of 1, 2, 4 and 8 synchronous actors, in an environment that sleeps for 5 ms a step
overhead   the share of a synchronous iteration that is neither acting nor learning, with rollouts of 100 ms and more
minibatch  what a minibatch's gradient takes in PPO, and what a policy takes to two actors and an answer back
late       IMPALA on CartPole-v1 with 1, 2 and 4 asynchronous actors: final evaluation and measured lag
a3c        the same of A3C: actors compute gradients, which are applied late
correction IMPALA with 8 asynchronous actors and large steps, with V-trace and without a correction: two seeds
kills      50 actors killed at random times in one run, compared with a run in which nothing happens

Without a name all are measured. With --nodes, N nodes of a cluster share this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

import advantage as adv
from advantage.drivers.cluster.actors import ClusterRun, ClusterWarning
from advantage.drivers.cluster.connection import Connection
from advantage.drivers.cluster.synchronous import SynchronousDriver
from advantage.types import Rollout

SLEEP = 0.005


class Sleeper(gymnasium.Env):
    """An environment whose step takes 5 ms and no core; each of its processes leaves its number in a folder."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, seconds: float = SLEEP, folder: str | None = None):
        self.seconds = seconds
        if folder is not None:
            Path(folder, str(os.getpid())).touch()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.np_random.uniform(-1, 1, 4).astype(np.float32), {}

    def step(self, action: int) -> Any:
        self.steps += 1
        time.sleep(self.seconds)
        obs = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return obs, float(action), False, self.steps == 100, {}


@contextlib.contextmanager
def cluster(nodes: int, cores: int) -> Iterator[str]:
    """A cluster on this machine whose nodes have so many cores together, at least on paper."""
    if nodes <= 1:
        with Connection(f"local:{cores}", "benchmark"):
            yield "auto"
        return
    import ray
    from ray.cluster_utils import Cluster

    each = -(-cores // nodes)
    many = Cluster(initialize_head=True, head_node_args={"num_cpus": each, "node_ip_address": "127.0.0.2"})
    for n in range(1, nodes):
        many.add_node(num_cpus=each, node_ip_address=f"127.0.0.{n + 2}")
    ray.init(address=many.address, _node_ip_address="127.0.0.2", log_to_driver=False)
    try:
        yield "auto"
    finally:
        ray.shutdown()
        many.shutdown()


def driven(
    actors: int, envs: int, n_steps: int, iterations: int, seconds: float
) -> tuple[float, float, float, float]:
    """A synchronous run by hand: steps a second, the share of the rest, bytes a step, seconds."""
    spec = adv.Spec(Sleeper.observation_space, Sleeper.action_space, envs, 10**6)
    algorithm = adv.PPO(n_steps=n_steps, batch_size=n_steps * envs, n_epochs=1)
    driver = SynchronousDriver(ClusterRun(algorithm, lambda: Sleeper(seconds), spec, 0, actors, timeout=60.0))
    key = jax.random.key(0)
    states = jax.tree.map(lambda x: x[None], algorithm.init(key, spec))
    state = driver.start(states, key[None])
    acting: list[float] = []
    made = driver._made

    def timed(*arguments: Any) -> Any:
        parts = made(*arguments)
        acting.append(max(part.seconds for part in parts.values()))
        return parts

    driver._made = timed
    learning: list[float] = []
    update = driver.update

    def learn(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = jax.block_until_ready(update(*arguments))
        learning.append(time.perf_counter() - begin)
        return result

    driver.update = learn
    step, whole, traffic = 0, [], 0.0
    for n in range(iterations + 2):  # the first two compile
        begin = time.perf_counter()
        result = driver.iterate(state, key[None], driver.span(n, step, step + 1))
        whole.append(time.perf_counter() - begin)
        state, step = result.state, step + int(result.steps[-1])
        traffic = float(result.metrics["bytes_per_step"].mean())
    driver.close()
    total, spent = sum(whole[2:]), sum(acting[2:]) + sum(learning[2:])
    return iterations * n_steps * envs / total, 1 - spent / total, traffic, total / iterations


def scaling(nodes: int) -> None:
    with cluster(nodes, 8):
        base = None
        for actors in (1, 2, 4, 8):
            rate, _, _, _ = driven(actors, actors, 64, 5, SLEEP)
            base = base or rate
            print(
                f"{actors} actors: {rate:7.0f} steps/s, {rate / base:.2f} times one actor   (asked: {0.9 * actors:.1f})"
            )


def overhead(nodes: int) -> None:
    with cluster(nodes, 4):
        for n_steps in (20, 64, 256):  # of two environments an actor, 2.5 ms each
            _, share, traffic, seconds = driven(2, 4, n_steps, 5, SLEEP / 2)
            arrays = 16 + 8 + 4 + 4 + 8 + 1 + 1  # observation, action twice, log-probability, reward, flags
            print(
                f"rollouts of {seconds * 1000:5.0f} ms: {100 * share:4.1f} % overhead (asked: 10), "
                f"{traffic:.1f} bytes a step, {traffic / arrays:.2f} times the arrays (asked: 1.2)"
            )


class Answering:
    """An actor that only answers."""

    def take(self, weights: Any) -> None:
        pass


def duration(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def minibatch(nodes: int) -> None:
    spec = adv.Spec(Sleeper.observation_space, Sleeper.action_space, 8, 10**6)
    algorithm = adv.PPO(n_steps=256, batch_size=256, n_epochs=4)
    state, shape = algorithm.init(jax.random.key(0), spec), (algorithm.n_steps, spec.num_envs)
    obs, no = np.random.default_rng(0).normal(size=(*shape, 4)).astype(np.float32), np.zeros(shape, bool)
    rollout = Rollout(obs, no.astype(np.int32), obs[..., 0], obs, no, no, (), ())
    update = jax.jit(algorithm.update)
    learning = np.median(
        [
            duration(lambda: jax.block_until_ready(update(state, rollout, jax.random.key(0))))
            for _ in range(20)
        ]
    )
    count = algorithm.n_epochs * algorithm.n_steps * spec.num_envs // algorithm.batch_size
    with cluster(nodes, 4):
        import ray

        actors = [ray.remote(Answering).remote() for _ in range(2)]
        weights = jax.device_get(state.params)

        def message() -> None:
            shared = ray.put(weights)
            ray.get([actor.take.remote(shared) for actor in actors])

        taken = [duration(message) for _ in range(200)]
    print(
        f"a minibatch of {algorithm.batch_size} samples: {1000 * learning / count:.2f} ms; a message to two actors and "
        f"back: {1000 * np.median(taken):.2f} ms"
    )


def learned(nodes: int, algorithm: Any, mode: str, actors: int, **options: Any) -> None:
    """A run on CartPole-v1: final evaluation and measured lag."""
    options = dict(num_envs=8, total_timesteps=200_000, eval_episodes=20, tensorboard=False) | options
    with cluster(nodes, max(actors, nodes)), tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        run = adv.train(
            algorithm, "CartPole-v1", out=Path(folder, "run"), cluster="auto", cluster_mode=mode, actors=actors,
            **options,
        )  # fmt: skip
        rows = np.genfromtxt(run.path / "progress.csv", delimiter=",", names=True)
        last = np.genfromtxt(run.path / "episodes.csv", delimiter=",", names=True)[-100:]
        print(
            f"{actors} actors, seed {options.get('seed', 0)}: {run.evaluation.mean:5.1f} of 500 (asked: 475), "
            f"{last['r'].mean():5.1f} in the last 100 training episodes, lag {rows['trainlag'].mean():.1f} "
            f"updates, at most {rows['trainlag_max'].max():.0f}, "
            f"{options['total_timesteps'] / (time.perf_counter() - begin):.0f} steps/s",
            flush=True,
        )


def late(nodes: int) -> None:
    for actors, seed in ((1, 0), (2, 0), (4, 0), (4, 1)):
        learned(nodes, adv.Impala(learning_rate=adv.Linear(2e-3, 0.0)), "asynchronous", actors, seed=seed)


def a3c(nodes: int) -> None:
    for actors, seed in ((1, 0), (2, 0), (4, 0), (4, 1)):
        learned(nodes, adv.A2C(n_steps=20, learning_rate=2e-3), "a3c", actors, seed=seed)


def correction(nodes: int) -> None:
    for seed, how in itertools.product((0, 1), ("vtrace", "ignored")):
        print(how, end=" ")
        algorithm = adv.Impala(learning_rate=adv.Linear(4e-3, 0.0), correction=how)
        learned(nodes, algorithm, "asynchronous", 8, num_envs=128, total_timesteps=300_032, seed=seed)


def kills(nodes: int, number: int = 50) -> None:
    algorithm = adv.PPO(n_steps=32, batch_size=64, n_epochs=1, hidden=(16,))
    options = dict(total_timesteps=32 * 4 * 3 * number, num_envs=4, eval_episodes=0, tensorboard=False)
    draw = random.Random(0)
    with cluster(nodes, 4), tempfile.TemporaryDirectory() as folder:
        processes = Path(folder, "processes")
        processes.mkdir()
        gone = {os.getpid()}

        def callback(progress: adv.Progress) -> None:
            if draw.random() < 0.4 and len(gone) <= number:
                victims = [int(path.name) for path in processes.iterdir() if int(path.name) not in gone]
                victim = draw.choice(victims)
                gone.add(victim)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)

        quiet = adv.train(algorithm, lambda: Sleeper(0), out=Path(folder, "quiet"), workers=0, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ClusterWarning)
            disturbed = adv.train(
                algorithm, lambda: Sleeper(0.0005, str(processes)), out=Path(folder, "disturbed"), cluster="auto",
                actors=4, callback=callback, **options,
            )  # fmt: skip
        same = jax.tree.map(np.array_equal, quiet.agent.state, disturbed.agent.state)
        equal = all(jax.tree.leaves(same))
        episodes = [Path(run.path, "episodes.csv").read_text() for run in (quiet, disturbed)]
        print(
            f"{len(gone) - 1} actors killed: the state {'equals' if equal else 'DIFFERS from'} that of the undisturbed "
            f"run in every bit, the episodes {'are the same' if episodes[0] == episodes[1] else 'DIFFER'}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    jobs = {each.__name__: each for each in (scaling, overhead, minibatch, late, a3c, correction, kills)}
    parser.add_argument("jobs", nargs="*", default=[*jobs])
    parser.add_argument("--nodes", type=int, default=1)
    given = parser.parse_args()
    for job in given.jobs:
        print(f"-- {job}", flush=True)
        jobs[job](given.nodes)
