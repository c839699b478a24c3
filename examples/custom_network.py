"""Your own network: a pair of functions, `init(key, x) -> params` and `apply(params, x) -> features`.

Actor and critic have one network each, followed by a linear layer. `params` is any pytree of arrays. To load the
agent, give the algorithm again, because a run folder contains no code.
"""

import jax
import jax.numpy as jnp
import numpy as np

import advantage as adv

WIDTH = 32


def init(key, x):
    """`x` is a batch of one input, `[1, d]`."""
    key_in, key_up, key_down = jax.random.split(key, 3)
    return {
        "in": jax.random.normal(key_in, (x.shape[-1], WIDTH)) / np.sqrt(x.shape[-1]),
        "up": jax.random.normal(key_up, (WIDTH, WIDTH)) / np.sqrt(WIDTH),
        "down": jax.random.normal(key_down, (WIDTH, WIDTH)) / np.sqrt(WIDTH),
    }


def apply(params, x):
    """A residual block; `x` is `[..., d]` with any batch axes."""
    x = jnp.tanh(x @ params["in"])
    return x + jnp.tanh(x @ params["up"]) @ params["down"]


ALGORITHM = adv.PPO(n_steps=128, batch_size=256, n_epochs=4, network=(init, apply))


def main(total_timesteps: int = 20_480, root: str = "runs") -> tuple[adv.Run, adv.Agent]:
    run = adv.train(ALGORITHM, "CartPole-v1", total_timesteps=total_timesteps, num_envs=8, root=root)
    agent = adv.load(run.path, algorithm=ALGORITHM)
    print(f"{run.path}: {run.evaluation}")
    return run, agent


if __name__ == "__main__":
    main()
