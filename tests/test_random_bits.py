"""Keys whose hash function is written out draw what JAX's own keys draw, bit for bit."""

import dataclasses

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.drivers.draws import Draws, of_block
from advantage.drivers.schedule import BLOCK
from advantage.random_bits import rolled, unrolled

DRAWS = {
    "uniform": lambda key: jax.random.uniform(key, (5, 3)),
    "one uniform number": jax.random.uniform,
    "normal": lambda key: jax.random.normal(key, (7,)),
    "randint": lambda key: jax.random.randint(key, (64,), 0, 77),
    "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (9,)),
    "categorical": lambda key: jax.random.categorical(key, jnp.zeros((4, 5))),
    "permutation": lambda key: jax.random.permutation(key, 50),
    "gamma": lambda key: jax.random.gamma(key, 2.0, (5,)),
    "bits of 8": lambda key: jax.random.bits(key, (9,), jnp.uint8),
    "bits of 16": lambda key: jax.random.bits(key, (9,), jnp.uint16),
    "nothing": lambda key: jax.random.uniform(key, (0,)),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (3, 2))),
    "fold in": lambda key: jax.random.key_data(jax.random.fold_in(key, 4_000_000_000)),
    "deeper": lambda key: jax.random.normal(jax.random.split(jax.random.fold_in(key, 3))[1], (2,)),
    "many keys": lambda key: jax.vmap(jax.random.uniform)(jax.random.split(key, 6)),
    "64 bits": lambda key: double(lambda: jax.random.normal(key, (9,), jnp.float64)),
}


def double(draw):
    with jax.enable_x64(True):
        return np.asarray(draw())


@pytest.mark.parametrize("draw", DRAWS.values(), ids=list(DRAWS))
@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_every_draw_has_the_bits_of_jax(draw, seed):
    key = jax.random.key(seed)
    expected = np.asarray(draw(key))
    for drawn in (draw(unrolled(key)), draw(rolled(unrolled(key)))):
        np.testing.assert_array_equal(np.asarray(drawn), expected)
    if draw is not DRAWS["64 bits"]:
        np.testing.assert_array_equal(np.asarray(jax.jit(lambda key: draw(unrolled(key)))(key)), expected)


def test_keys_of_another_kind_stay_as_they_are():
    key = jax.random.key(3, impl="rbg")
    assert unrolled(key) is key and rolled(key) is key
    key = jax.random.key(3)
    assert rolled(key) is key and unrolled(unrolled(key)).dtype == unrolled(key).dtype


def test_a_world_of_ones_own_is_given_keys_of_jax(tmp_path):
    """`poisson` takes no others, so a world that uses it trains."""

    @dataclasses.dataclass(frozen=True)
    class Counts:
        max_episode_steps: int = 8
        gymnasium_id = None
        observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
        action_space = gymnasium.spaces.Discrete(2)

        def reset(self, key):
            count = jax.random.poisson(key, 3.0, (1,)).astype(jnp.float32)
            return count, count

        def step(self, state, action, key):
            count = jax.random.poisson(key, 3.0 + action, (1,)).astype(jnp.float32)
            return count, count, count[0], jnp.bool_(False)

    replay = dict(learning_starts=8, n_steps=1, buffer_size=64, batch_size=4)
    for n, algorithm in enumerate((adv.A2C(n_steps=4, hidden=(4,)), adv.DQN(**replay, hidden=(4,)))):
        run = adv.train(
            algorithm,
            Counts(),
            total_timesteps=64,
            num_envs=2,
            eval_episodes=0,
            out=tmp_path / str(n),
            tensorboard=False,
        )
        assert run.step == 64


def test_an_update_of_ones_own_is_given_keys_of_jax():
    """Its draws of a block are those of the iteration's number, whatever makes them."""
    block = Draws(jnp.zeros((BLOCK, 1)), jax.random.key(1), jax.random.key(2))
    drawn = of_block(block, jnp.int32(BLOCK + 5))
    for key, seed in ((drawn.key_world, 1), (drawn.key_update, 2)):
        assert jax.random.key_impl(key) == "threefry2x32"
        expected = jax.random.fold_in(jax.random.key(seed), 5)
        np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(expected))
