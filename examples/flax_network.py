"""A Flax module as PPO's network, saved and loaded again. Needs `pip install "advantage[flax]"`.

`adv.from_flax` takes a `flax.linen` module; for `flax.nnx` it takes a function that makes one,
`adv.from_flax(lambda rngs, x: MyModule(x.shape[-1], rngs=rngs))`.
"""

from flax import linen

import advantage as adv


class Network(linen.Module):
    """Two layers, each normalised."""

    width: int = 32

    @linen.compact
    def __call__(self, x):
        for _ in range(2):
            x = linen.tanh(linen.LayerNorm()(linen.Dense(self.width)(x)))
        return x


ALGORITHM = adv.PPO(n_steps=128, batch_size=256, n_epochs=4, network=adv.from_flax(Network()))


def main(total_timesteps: int = 20_480, root: str = "runs") -> tuple[adv.Run, adv.Agent]:
    run = adv.train(ALGORITHM, "CartPole-v1", total_timesteps=total_timesteps, num_envs=8, root=root)
    agent = adv.load(run.path, algorithm=ALGORITHM)  # a run folder contains no code: give the network again
    print(f"{run.path}: {run.evaluation}")
    return run, agent


if __name__ == "__main__":
    main()
