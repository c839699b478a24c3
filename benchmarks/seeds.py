"""The cost of several seeds: PPO on jax/CartPole-v1, milliseconds per iteration within the compiled program.

python benchmarks/seeds.py [--num-envs 4] [--seeds 1 2 3 4 8]

An iteration is 128 steps in each environment and 4 epochs of 4 minibatches, for every seed. Every figure is measured in
its own process and is the minimum of five calls of 64 iterations. "Shared" is what `advantage train --num-seeds` does:
each core is a device, and the devices share the seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time


def measure(num_seeds: int, num_envs: int, devices: int) -> float:
    """Milliseconds per iteration."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import advantage as adv
    from advantage.drivers.device import DeviceDriver
    from advantage.environments.worlds.cartpole import CartPole
    from advantage.types import Span, Spec

    world = CartPole()
    algorithm = adv.PPO(n_steps=128, batch_size=32 * num_envs, n_epochs=4)
    spec = Spec(world.observation_space, world.action_space, num_envs, 10**6)
    keys = jax.random.split(jax.random.key(0), num_seeds)
    state = jax.jit(jax.vmap(lambda key: algorithm.init(key, spec)))(keys)
    driver = DeviceDriver(algorithm, world, spec, num_seeds)
    driver.start(state, keys)
    seconds = []
    for call in range(6):
        begin = time.perf_counter()
        state = driver.iterate(state, keys, Span(64 * call, 64, 0, 128)).state
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:]) / 64 * 1000


def main() -> None:
    from advantage.machine import available_cores

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 8])
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(*arguments.one))
        return
    print("| seeds | one device | relative to one seed | cores shared | relative to one seed |")
    print("|---:|---:|---:|---:|---:|")
    alone = 0.0
    for seeds in arguments.seeds:
        cells = []
        for devices in (1, min(seeds, available_cores())):
            command = [sys.executable, __file__, "--one", *map(str, (seeds, arguments.num_envs, devices))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            milliseconds = float(done.stdout.splitlines()[-1])
            alone = alone or milliseconds
            cells += [f"{milliseconds:.2f} ms", f"{milliseconds / alone:.2f}×"]
        print(f"| {seeds} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
