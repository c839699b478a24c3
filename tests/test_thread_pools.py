"""No program of ours depends on how many threads XLA's pool has: LAPACK is asked for one matrix after the other."""

import os
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advantage.algorithms.search.cma_es import CMAES
from advantage.algorithms.search.cross_entropy import CEM
from advantage.matrices import cholesky, divide_by_triangle, eigh, for_each, qr

KEYS = jax.random.split(jax.random.key(0), 3)


def batches(function, *arguments):
    """How many matrices each call of LAPACK in a compiled program takes."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    calls = [line for line in text.splitlines() if 'custom_call_target="lapack' in line]
    found = []
    for line in calls:
        shapes = re.findall(r"\w+\[([\d,]+)\]", line.split("custom-call(")[0])
        sizes = [tuple(map(int, shape.split(","))) for shape in shapes]
        found.append(int(np.prod(max(sizes, key=len)[:-2])))
    return found


def symmetric(seed):
    x = jax.random.normal(seed, (4, 4))
    return x @ x.T + jnp.eye(4)


@pytest.mark.parametrize(
    "function",
    [
        lambda key: qr(jax.random.normal(key, (5, 3))),
        lambda key: cholesky(symmetric(key)),
        lambda key: eigh(symmetric(key)),
        lambda key: divide_by_triangle(jax.random.normal(key, (2, 4)), jnp.triu(symmetric(key))),
    ],
    ids=["qr", "cholesky", "eigh", "divide_by_triangle"],
)
def test_a_loop_over_matrices_gives_the_same_numbers_as_each_alone(function):
    alone = [function(KEYS[n]) for n in range(3)]
    for loop in (jax.vmap(function), lambda keys: for_each(function, keys)):
        assert set(batches(loop, KEYS)) <= {1}
        together = loop(KEYS)
        for n in range(3):
            for row, expected in zip(jax.tree.leaves(together), jax.tree.leaves(alone[n]), strict=True):
                np.testing.assert_allclose(row[n], expected, rtol=2e-5, atol=2e-6)


def test_a_single_row_needs_no_loop():
    one, three = (jax.jit(lambda x: for_each(jnp.tanh, x)).lower(jnp.ones((n, 2))).as_text() for n in (1, 3))
    assert "while" not in one
    assert "while" in three


def test_lapack_itself_would_be_given_batches():
    """What the other tests look for is there to be found."""
    assert max(batches(jax.vmap(lambda key: jnp.linalg.qr(jax.random.normal(key, (5, 3)))), KEYS)) == 3


@pytest.mark.parametrize(
    "optimiser", [CMAES(candidates=6), CEM(candidates=6, covariance="full")], ids=["cma-es", "cem"]
)
def test_searches_side_by_side_ask_for_one_matrix_at_a_time(optimiser):
    def generation(key):
        state = optimiser.begin(jnp.ones(5))
        x = optimiser.ask(state, key)
        return optimiser.ask(optimiser.tell(state, x, jnp.square(x).sum(-1)), key)

    assert set(batches(jax.vmap(generation), KEYS)) == {1}


PROGRAM = """
import os, threading
threading.Timer(100, lambda: (print("hangs", flush=True), os._exit(3))).start()
import jax, jax.numpy as jnp, numpy as np, gymnasium
from gymnasium import spaces
import advantage as adv
from advantage.algorithms.search.cross_entropy import CEM
from advantage.algorithms.search.cma_es import CMAES

def network(key, x):  # another library's, which knows nothing of pools
    return jax.nn.initializers.orthogonal()(key, (x.shape[-1], 32))

class Field(gymnasium.Env):
    observation_space, action_space = spaces.Box(0, 1, (3000,), np.float32), spaces.Discrete(3)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.random(3000, dtype=np.float32), {}
    def step(self, action):
        self.t += 1
        return self.np_random.random(3000, dtype=np.float32), 1.0, False, self.t >= 20, {}

options = dict(n_steps=16, batch_size=16, n_epochs=1)
for algorithm in (adv.PPO(**options), adv.PPO(**options, network=(network, lambda w, x: jnp.tanh(x @ w)))):
    adv.train(algorithm, Field, total_timesteps=16, eval_episodes=0, workers=0)
adv.train(adv.PPO(**options, hidden=(256, 256)), "jax/CartPole-v1", total_timesteps=16, num_seeds=3, eval_episodes=0)
for search in (CEM(candidates=20, covariance="full"), CMAES(candidates=20)):
    def generation(key):
        state = search.begin(jnp.ones(200))
        x = search.ask(state, key)
        return search.ask(search.tell(state, x, jnp.square(x).sum(-1)), key)
    jax.block_until_ready(jax.jit(jax.vmap(generation))(jax.random.split(jax.random.key(0), 4)))
print("done", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_large_inputs_begin_to_train_on_a_pool_of_any_size(threads, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env={**os.environ, "NPROC": str(threads)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["done"], done.stdout + done.stderr[-2000:]
