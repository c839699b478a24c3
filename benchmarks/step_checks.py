"""What the checks of every step cost: the same steps with and without them, alternately.

python benchmarks/step_checks.py [CartPole-v1] [--num-envs 1] [--pairs 200]

Two measurements, each in this process and in processor time: environments stepped with random actions by the host
driver's stepper and its comparison with bounds, and PPO's whole iterations, both of 1,024 steps. Every
other one is without the checks. Prints the medians in microseconds per environment step, and the median of the
differences of neighbours as a share of the step with the checks.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from typing import Any

import gymnasium
import numpy as np

import advantage as adv
from advantage.drivers.host import collector, stepper

WINDOW = 1024  # steps


def unchecked_step(self: stepper.Stepper, place: int, action: Any) -> tuple:
    """`Stepper._step` without its test."""
    self.calling = place
    try:
        result = self.envs[place].step(action)
    except (Exception, SystemExit) as error:
        raise self._failure(place, f"step({action!r})", error) from error
    self.calling = None
    self.counts[place] += 1
    return result


def unchecked_begin(self: stepper.Stepper, place: int, episode: int, row: int) -> None:
    """`Stepper._begin` without its tests."""
    self.episodes[place] = episode
    seed = stepper.episode_seed(self.seed, self.indices[place], episode)
    self.calling = place
    try:
        result = self.envs[place].reset(seed=seed)
    except (Exception, SystemExit) as error:
        raise self._failure(place, f"reset(seed={seed})", error) from error
    self.calling = None
    stepper.write(self.buffers.obs, (row, self.indices[place]), result[0])


PATCHES = (
    (stepper.Stepper, "_step", unchecked_step),
    (stepper.Stepper, "_begin", unchecked_begin),
    (collector.RolloutChecks, "__call__", lambda self, *rows: []),
)
CHECKED = tuple((owner, name, getattr(owner, name)) for owner, name, _ in PATCHES)


def switch(on: bool) -> None:
    """From now on the host driver checks what environments return, or does not."""
    for owner, name, function in CHECKED if on else PATCHES:
        setattr(owner, name, function)


def bare(environment: str, num_envs: int, pairs: int) -> list[float]:
    """Seconds of processor time for a step, with checks and without in turn: no policy, no learning."""
    make = functools.partial(gymnasium.make, environment)
    env = make()
    env.action_space.seed(0)
    buffers = stepper.allocate(
        stepper.buffer_shapes(env.observation_space, env.action_space, WINDOW, num_envs)
    )
    for t, index in np.ndindex(WINDOW, num_envs):
        buffers.action[t, index] = env.action_space.sample()
    envs, compare = (
        stepper.Stepper(make, range(num_envs), 0, buffers),
        collector.RolloutChecks(env.observation_space),
    )
    envs.reset()
    times = []
    for number in range(2 * pairs):
        switch(number % 2 == 0)
        begin = time.process_time()
        for t in range(WINDOW):
            envs.step(t)
        compare(buffers.next_obs, buffers.obs[1:], buffers.reward)
        times.append((time.process_time() - begin) / (WINDOW * num_envs))
    envs.close()
    return times


def ppo(environment: str, num_envs: int, pairs: int) -> list[float]:
    """The same for iterations of PPO: acting, stepping, learning, logs."""
    algorithm, times = adv.PPO(n_steps=WINDOW), [time.process_time()]

    def record(progress: Any) -> None:
        times.append(time.process_time())
        switch(len(times) % 2 == 1)

    switch(True)
    size = algorithm.n_steps * num_envs
    options = {"num_envs": num_envs, "workers": 0, "eval_episodes": 0, "callback": record}
    with tempfile.TemporaryDirectory() as root:
        adv.train(algorithm, environment, total_timesteps=2 * (pairs + 1) * size, root=root, **options)
    return [float(seconds) / size for seconds in np.diff(times)[2:]]  # the first ones compile


def report(name: str, times: list[float]) -> None:
    """Print the medians, and the median of the differences of neighbours."""
    on, off = np.array(times[::2]) * 1e6, np.array(times[1::2]) * 1e6
    share = np.median(on - off) / np.median(on)
    print(
        f"{name:6s} with {np.median(on):6.2f} us   without {np.median(off):6.2f} us   {share:6.1%} of a step"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("environment", nargs="?", default="CartPole-v1")
    for option, default in (("num-envs", 1), ("pairs", 200)):
        parser.add_argument(f"--{option}", type=int, default=default)
    given = parser.parse_args()
    report("bare", bare(given.environment, given.num_envs, 3 * given.pairs))
    report("ppo", ppo(given.environment, given.num_envs, given.pairs))


if __name__ == "__main__":
    main()
