"""An Equinox module as PPO's network, saved and loaded again. Needs `pip install "advantage[equinox]"`.

`adv.from_equinox` takes a function of a key and one input, which makes the module for an environment's sizes.
"""

import equinox as eqx
import jax

import advantage as adv


def make(key, x):
    """`x` is one input without batch axes, `[d]`; batch axes are added by vmap."""
    return eqx.nn.MLP(x.size, 32, 32, depth=2, activation=jax.nn.silu, final_activation=jax.nn.silu, key=key)


ALGORITHM = adv.PPO(n_steps=128, batch_size=256, n_epochs=4, network=adv.from_equinox(make))


def main(total_timesteps: int = 20_480, root: str = "runs") -> tuple[adv.Run, adv.Agent]:
    run = adv.train(ALGORITHM, "CartPole-v1", total_timesteps=total_timesteps, num_envs=8, root=root)
    agent = adv.load(run.path, algorithm=ALGORITHM)  # a run folder contains no code: give the network again
    print(f"{run.path}: {run.evaluation}")
    return run, agent


if __name__ == "__main__":
    main()
