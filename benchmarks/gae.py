"""Microseconds to compute generalised advantages, compared with other libraries in one run of this script.

python benchmarks/gae.py [--repeats 200]

`compiled` is a call of a compiled function with prepared arrays; `within` is the same inside a larger compiled program,
as in updates. The other libraries are rlax (vmapped and compiled), rlox, the loop over NumPy rows of
stable-baselines3's rollout buffer, and, as a limit, a plain loop compiled by numba; a library that is not installed
shows a dash. Every figure is the minimum of the repeats, and all results are checked against ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from advantage.estimators.returns import gae

SHAPES = (2048, 1), (128, 1024), (1024, 4096)
GAMMA, LAM = 0.99, 0.95


def facts(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Rewards, values and ends of a rollout; the next values are the next row of values, as other libraries need it."""
    rng = np.random.default_rng(0)
    value = rng.normal(size=(shape[0] + 1, shape[1])).astype(np.float32)
    done = rng.random(shape) < 0.01
    return {"reward": rng.normal(size=shape).astype(np.float32), "value": value, "done": done}


def coefficients(facts: dict[str, np.ndarray]) -> list[Any]:
    """The arguments of `gae`, prepared as for every library."""
    goes_on = 1 - facts["done"].astype(np.float32)
    value = facts["value"]
    return jax.device_put(
        [facts["reward"], GAMMA * goes_on, value[:-1].copy(), value[1:].copy(), LAM * goes_on]
    )


def compiled(facts: dict[str, np.ndarray]) -> Callable[[], Any]:
    arrays, function = coefficients(facts), jax.jit(gae)
    return lambda: function(*arrays).block_until_ready()


def within(facts: dict[str, np.ndarray], times: int) -> Callable[[], Any]:
    """`times` computations in one program, each with the previous advantages as rewards."""
    reward, *rest = coefficients(facts)

    @jax.jit
    def program(reward, *rest):
        return jax.lax.fori_loop(0, times, lambda _, last: gae(last, *rest), reward)

    return lambda: program(reward, *rest).block_until_ready()


def rlax(facts: dict[str, np.ndarray]) -> Callable[[], Any]:
    import rlax

    arrays = jax.device_put([facts["reward"], GAMMA * (1 - facts["done"].astype(np.float32)), facts["value"]])
    estimate = partial(rlax.truncated_generalized_advantage_estimation, lambda_=LAM)
    function = jax.jit(jax.vmap(lambda r, d, v: estimate(r, d, values=v), 1, 1))
    return lambda: function(*arrays).block_until_ready()


def rlox(facts: dict[str, np.ndarray]) -> Callable[[], Any]:
    import rlox

    steps, envs = facts["reward"].shape
    columns = [
        np.ascontiguousarray(x.T.ravel(), np.float64)
        for x in (facts["reward"], facts["value"][:-1], facts["done"])
    ]
    last = facts["value"][-1].astype(np.float64)
    if envs == 1:
        return lambda: rlox.compute_gae(*columns, float(last[0]), GAMMA, LAM)[0][:, None]
    return lambda: rlox.compute_gae_batched(*columns, last, steps, GAMMA, LAM)[0].reshape(envs, steps).T


def stable_baselines3(facts: dict[str, np.ndarray]) -> Callable[[], Any]:
    import gymnasium
    import torch
    from stable_baselines3.common.buffers import RolloutBuffer

    steps, envs = facts["reward"].shape
    space = gymnasium.spaces.Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, space, space, gae_lambda=LAM, gamma=GAMMA, n_envs=envs)
    buffer.rewards[:], buffer.values[:] = facts["reward"], facts["value"][:-1]
    buffer.episode_starts[1:] = facts["done"][:-1]
    last = torch.as_tensor(facts["value"][-1])

    def call():
        buffer.compute_returns_and_advantage(last, facts["done"][-1])
        return buffer.advantages

    return call


def numba(facts: dict[str, np.ndarray]) -> Callable[[], Any]:
    from numba import njit

    @njit(fastmath=True)
    def loop(reward, value, done, result):
        last = np.zeros(reward.shape[1], np.float32)
        for t in range(reward.shape[0] - 1, -1, -1):
            for n in range(reward.shape[1]):
                goes_on = np.float32(0) if done[t, n] else np.float32(GAMMA)
                delta = reward[t, n] + goes_on * value[t + 1, n] - value[t, n]
                last[n] = delta + goes_on * np.float32(LAM) * last[n]
                result[t, n] = last[n]
        return result

    result = np.empty_like(facts["reward"])
    return lambda: loop(facts["reward"], facts["value"], facts["done"], result)


PEERS = {"rlax": rlax, "rlox": rlox, "stable_baselines3": stable_baselines3, "numba": numba}


def least(call: Callable[[], Any], repeats: int) -> float:
    """Microseconds of the fastest call; measures for at most five seconds."""
    call()
    times, until = [], time.perf_counter() + 5
    while len(times) < repeats and time.perf_counter() < until:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e6 * min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    print(
        "| T × B | advantage, within | advantage, compiled | "
        + " | ".join(PEERS)
        + " | fastest library / ours |"
    )
    print("|---|---:|---:|" + "---:|" * (len(PEERS) + 1))
    for shape in SHAPES:
        mine = facts(shape)
        expected, times = np.asarray(compiled(mine)()), max(2, 400_000 // (shape[0] * shape[1]))
        inside = least(within(mine, times), arguments.repeats) / times
        called = least(compiled(mine), arguments.repeats)
        cells, peers = [f"{inside:,.1f}", f"{called:,.1f}"], []
        for name, make in PEERS.items():
            if not importlib.util.find_spec(name):
                cells.append("–")
                continue
            call = make(mine)
            assert np.allclose(call(), expected, atol=1e-3), name
            taken = least(call, arguments.repeats)
            cells.append(f"{taken:,.1f}")
            if name != "numba":
                peers.append(taken)
        ratio = f"{min(peers) / min(inside, called):.2f}×" if peers else "–"
        print(f"| {shape[0]} × {shape[1]} | " + " | ".join([*cells, ratio]) + " |", flush=True)


if __name__ == "__main__":
    main()
