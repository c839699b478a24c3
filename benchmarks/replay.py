"""Microseconds of prioritised replay by size, the memory of a replay buffer, and what its checkpoints cost.

python benchmarks/replay.py [--sizes 10000 100000 1000000 10000000] [--repeats 200] [--new 1000 100000]

A draw of 256 transitions and the update of their priorities, inside a compiled loop as in updates. `cumulative sum`
does the same without a tree: the sum over all priorities and a binary search in it, at each draw, in the same kind of
loop or in NumPy, whichever is faster. Figures are the minimum of the repeats. First, a buffer is filled with a million
transitions of HalfCheetah's size; its bytes, and the growth of resident memory, are compared with what the numbers of
the transitions take if each is stored once. Then checkpoints are written of that buffer, each after `--new` more
transitions: the median seconds of five, and the bytes by which the folder grows for one.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advantage.replay.prioritised import Priorities, priorities_sample, priorities_update
from advantage.replay.ring import Replay, replay_add, replay_init
from advantage.replay.sum_tree import sum_tree_width
from advantage.runs.checkpoint import save_checkpoint
from advantage.types import Rollout

BATCH, LOOPS, ALPHA, BETA = 256, 20, 0.6, 0.4
CUMULATIVE_AT = 1_000_000


def full(size: int) -> tuple[Priorities, Replay]:
    """Random priorities of a full buffer of small transitions."""
    byte = jax.ShapeDtypeStruct((), np.uint8)
    replay = replay_init(byte, byte, capacity=size, num_envs=1)
    level = np.zeros((sum_tree_width(size), 2), np.float32)
    level[:size] = np.random.default_rng(0).random((size, 1)) + 0.01
    levels = [level]
    while len(level) > 1:
        left, right = level[::2], level[1::2]
        level = np.stack([left[:, 0] + right[:, 0], np.maximum(left[:, 1], right[:, 1])], 1)
        levels.append(level)
    tree = jnp.asarray(np.concatenate([np.zeros_like(level), *reversed(levels)]))
    return Priorities(tree), replay._replace(head=jnp.uint32(size))


def with_tree(priorities: Priorities, replay: Replay, key: jax.Array) -> Priorities:
    drawn = priorities_sample(priorities, replay, key, BATCH, beta=BETA)
    td_error = drawn.weights * (1 + drawn.index % 7)
    return priorities_update(priorities, drawn.places, td_error, alpha=ALPHA)


def draw_only(priorities: Priorities, replay: Replay, key: jax.Array) -> Priorities:
    drawn = priorities_sample(priorities, replay, key, BATCH, beta=BETA)
    return Priorities(priorities.tree.at[0, 0].set(drawn.weights.sum()))


def with_cumulative_sum(priority: jax.Array, replay: Replay, key: jax.Array) -> jax.Array:
    sums = jnp.cumsum(priority)
    part = (jnp.arange(BATCH) + jax.random.uniform(key, (BATCH,))) / BATCH
    index = jnp.searchsorted(sums, part * sums[-1], side="right")
    weights = (priority[index].min() / priority[index]) ** BETA
    return priority.at[index].set((jnp.abs(weights * (1 + index % 7)) + 1e-6) ** ALPHA)


def microseconds(step: Callable[..., Any], carry: Any, replay: Replay, repeats: int) -> float:
    """Of one step, in a compiled loop that writes in place."""

    def loop(carry, replay, key):
        return jax.lax.fori_loop(
            0, LOOPS, lambda i, carry: step(carry, replay, jax.random.fold_in(key, i)), carry
        )

    program, times = jax.jit(loop, donate_argnums=0), []
    until = time.perf_counter() + 20
    for seed in range(repeats + 1):
        begin = time.perf_counter()
        carry = jax.block_until_ready(program(carry, replay, jax.random.key(seed)))
        times.append((time.perf_counter() - begin) / LOOPS)
        if seed > 2 and time.perf_counter() > until:
            break
    return 1e6 * min(times[1:])


def in_numpy(priority: np.ndarray, repeats: int) -> float:
    """Microseconds of a draw by cumulative sum, and the update, in NumPy."""
    rng, times = np.random.default_rng(0), []
    for _ in range(repeats):
        begin = time.perf_counter()
        sums = np.cumsum(priority)
        part = (np.arange(BATCH) + rng.random(BATCH)) / BATCH
        index = np.searchsorted(sums, part * sums[-1], side="right")
        weights = (priority[index].min() / priority[index]) ** BETA
        priority[index] = (np.abs(weights * (1 + index % 7)) + 1e-6) ** ALPHA
        times.append(time.perf_counter() - begin)
    return 1e6 * min(times)


def resident() -> int:
    """Resident memory of this process in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def half_cheetah(size: int) -> tuple[Replay, float]:
    """A full buffer, with episodes of 1,000 steps, and by how many bytes resident memory grew for it."""
    rows, rng = 1000, np.random.default_rng(0)
    ends = np.zeros((rows, 1), bool)
    ends[-1] = True
    obs, action = (rng.normal(size=(rows, 1, width)).astype(np.float32) for width in (17, 6))
    rollout = jax.device_put(Rollout(obs, action, obs[..., 0], obs, np.zeros_like(ends), ends))
    one = [jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype) for leaf in (obs, action)]

    def empty() -> Replay:
        return replay_init(*one, capacity=size, num_envs=1)

    make = jax.jit(empty).lower().compile()  # programs take memory too
    add = jax.jit(replay_add, donate_argnums=0).lower(jax.eval_shape(empty), rollout).compile()
    begin = resident()
    replay = make()
    for _ in range(size // rows):
        replay = add(replay, rollout)
    return jax.block_until_ready(replay), resident() - begin


def disk_usage(folder: Path) -> int:
    """Bytes of the files in a folder; one that has several names counts once."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({file.st_ino: file.st_size for file in files}.values())


def checkpoints(replay: Replay, new: int, *, prioritised: bool) -> tuple[float, int]:
    """Median seconds of five checkpoints with `new` more transitions each, and the bytes that one adds."""
    rng, times, sizes = np.random.default_rng(0), [], []
    add = jax.jit(replay_add)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for step in range(6):
            obs, action = (rng.normal(size=(new, 1, width)).astype(np.float32) for width in (17, 6))
            ends = np.arange(new)[:, None] % 1000 == 999
            rollout = Rollout(obs, action, obs[..., 0], obs, np.zeros_like(ends), ends)
            replay = jax.block_until_ready(add(replay, rollout))
            state: dict[str, Any] = {"replay": replay}
            if prioritised:  # all have been drawn since, and have other priorities
                leaves = 2 * sum_tree_width(replay.num_rows)
                state["priorities"] = Priorities(jnp.asarray(rng.random((leaves, 2), np.float32)))
            before, begin = disk_usage(Path(folder)), time.perf_counter()
            save_checkpoint(Path(folder), step, state, metadata={})
            times.append(time.perf_counter() - begin)
            sizes.append(disk_usage(Path(folder)) - before)
    return float(np.median(times[1:])), int(np.median(sizes[1:]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--new", type=int, nargs="*", default=[1_000, 100_000])
    arguments = parser.parse_args()

    half_cheetah(arguments.transitions)  # the first calls of a process leave memory behind
    replay, grown = half_cheetah(arguments.transitions)
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(replay))
    once = arguments.transitions * (17 * 4 + 6 * 4 + 4 + 1 + 1)
    print(f"{arguments.transitions:,} transitions of HalfCheetah, each number once: {once / 1e6:.1f} MB")
    for what, taken in (("arrays of the buffer", nbytes), ("resident memory", grown)):
        print(f"{what}: {taken / 1e6:.1f} MB ({taken / once:.3f}×)")
    print(
        "\n| new transitions | priorities | seconds of a checkpoint | MB on the disk |\n|---:|---|---:|---:|"
    )
    for new in arguments.new:
        for prioritised in (False, True):
            seconds, size = checkpoints(replay, new, prioritised=prioritised)
            print(
                f"| {new:,} | {'yes' if prioritised else 'no'} | {seconds:.2f} | {size / 1e6:.1f} |",
                flush=True,
            )
    del replay

    print(
        f"\n| transitions | draw of {BATCH}, µs | draw and update, µs | growth | √N | cumulative sum, µs | ratio |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    first = None
    for size in arguments.sizes:
        priorities, replay = full(size)
        cells = ["–", "–"]
        if size == CUMULATIVE_AT:
            flat = jnp.array(priorities.tree[sum_tree_width(size) :][:size, 0])
            in_host = in_numpy(np.array(flat), arguments.repeats)
            cumulative = min(in_host, microseconds(with_cumulative_sum, flat, replay, arguments.repeats))
        else:
            cumulative = None
        drawing = microseconds(draw_only, jax.tree.map(jnp.copy, priorities), replay, arguments.repeats)
        both = microseconds(with_tree, priorities, replay, arguments.repeats)
        first = first or (size, both)
        if cumulative:
            cells = [f"{cumulative:,.0f}", f"{cumulative / both:.1f}×"]
        growth, root = both / first[1], math.sqrt(size / first[0])
        row = [f"{size:,}", f"{drawing:,.1f}", f"{both:,.1f}", f"{growth:.1f}×", f"{root:.1f}×", *cells]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
