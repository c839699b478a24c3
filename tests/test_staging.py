"""Functions written down in NumPy: the same numbers as JAX, whatever the space or the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import advantage as adv
from advantage.drivers.host.host_actor import HostActor, actor_of
from advantage.drivers.host.staging import Unsupported, stage

X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)

FUNCTIONS = {
    "layers": lambda w, x: jnp.tanh(x @ w + w[0]),
    "relu": lambda w, x: jax.nn.relu(x @ w),
    "silu": lambda w, x: jax.nn.silu(x @ w),
    "softplus": lambda w, x: jax.nn.softplus(x @ w),
    "elu": lambda w, x: jax.nn.elu(x @ w),
    "gelu": lambda w, x: jax.nn.gelu(x @ w),
    "softmax": lambda w, x: jax.nn.softmax(x @ w),
    "layer norm": lambda w, x: jax.nn.standardize(x @ w) + w.sum(),
    "several axes": lambda w, x: jnp.einsum("bi,io->ob", x, w),
    "left contraction": lambda w, x: jnp.einsum("bi,bj->ij", x, x) @ w,
    "argmax": lambda w, x: (x @ w).argmax(-1).astype(np.int32),
    "argmin": lambda w, x: (x @ w).argmin(0),
    "one hot": lambda w, x: jax.nn.one_hot((x @ w).argmax(-1), 3),
    "powers": lambda w, x: (x**2, x**3, jnp.sqrt(x * x), jax.lax.rsqrt(x * x + 1), jnp.exp2(x)),
    "comparisons": lambda w, x: (x > 0, x >= w[0, 0], x == x, ~(x < 0) & (x != 1), jnp.where(x > 0, x, -1)),
    "clip": lambda w, x: (jnp.clip(x, -0.5, 0.5), jax.lax.clamp(np.float32(0), x, np.float32(1))),
    "slices": lambda w, x: (
        x[:, 1:],
        jax.lax.slice_in_dim(x, 0, None, 2),
        jnp.concatenate([x, 2 * x], axis=1),
    ),
    "shapes": lambda w, x: (x[:, None], x.reshape(2, 10).T, jnp.expand_dims(x, 0).squeeze(0)),
    "reductions": lambda w, x: (x.sum(-1), x.max(), x.min(0), x.prod(1), (x > 0).any(1), (x > 0).all()),
    "ready": lambda w, x: {"of constants": w @ w.T, "as it was": x, "number": jnp.float32(2)},
    "iota": lambda w, x: x + jnp.arange(4.0),
    "division": lambda w, x: (x / w[0, 0], 1 / (x * x + 1), -x, abs(x), jnp.sign(x), jnp.floor(x)),
    "jit inside": lambda w, x: jax.jit(lambda x: jnp.tanh(x) @ w)(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_numbers_as_jax(name):
    function = FUNCTIONS[name]
    call = stage(function, W, X).bind(W).call
    for x in (X, 3 * X - 1):
        got, expected = call(x), jax.device_get(function(W, jnp.asarray(x)))
        assert jax.tree.structure(got) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            assert isinstance(a, np.ndarray | np.generic) and a.dtype == b.dtype and a.shape == np.shape(b)
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_results_are_the_callers_own():
    call = stage(lambda w, x: (x @ w, x), W, X).bind(W).call
    first = call(X)
    kept = jax.tree.map(np.copy, first)
    x = X.copy()
    call(2 * X)
    first[1][:] = 0
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(first[0], kept[0])


def test_constants_are_bound_anew():
    staged, w = stage(lambda w, x: jnp.exp(w).sum() * (x[:, :3] @ w.T), W, X), W.copy()
    bound = staged.bind(w)
    for factor in (1, 2, -1):
        w[...] = factor * W
        bound.renew()
        np.testing.assert_allclose(bound.call(X), np.exp(w).sum() * (X[:, :3] @ w.T), rtol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda w, x: jax.lax.scan(lambda c, y: (c + y, c), jnp.zeros(4), x)[1],
        lambda w, x: x + jax.random.normal(jax.random.key(0), x.shape),
        lambda w, x: jnp.sort(x),
    ],
)
def test_what_has_no_numpy_is_refused(function):
    with pytest.raises(Unsupported):
        stage(function, W, X)


SPACES = {
    "float64": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "scalar": spaces.Box(-1, 1, (), np.float32),
    "discrete": spaces.Discrete(4, start=-2),
    "nested": spaces.Dict(
        {
            "a": spaces.Tuple((spaces.MultiBinary(3), spaces.MultiDiscrete([2, 3]))),
            "b": spaces.Box(-2, 2, (2, 2)),
        }
    ),
    "image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
    "large image": spaces.Dict(
        {"i": spaces.Box(0, 255, (3, 40, 40), np.uint8), "x": spaces.Box(-1, 1, (2,))}
    ),
}
ACTIONS = {
    "gaussian": spaces.Box(-1, 1, (2, 2), np.float64),
    "discrete": spaces.Discrete(3),
    "switches": spaces.MultiBinary(4),
    "product": spaces.Tuple((spaces.MultiDiscrete([2, 4]), spaces.Box(-1, 1, (1,)))),
}


def compare(algorithm, observation_space, action_space, batch=3):
    spec = adv.Spec(observation_space, action_space, 1)
    state = algorithm.init(jax.random.key(0), spec)
    actor = HostActor(algorithm, actor_of(algorithm, state))
    observation_space.seed(0)
    samples = [observation_space.sample() for _ in range(batch)]
    obs = jax.tree.map(lambda *leaves: np.stack(leaves), *map(as_dicts, samples))
    noise = actor.noise(jax.random.key(1), (batch,))
    got = actor.act(obs, (), noise), actor.greedy(obs, ())
    expected = (
        jax.jit(algorithm.act)(actor.actor, obs, (), noise),
        jax.jit(algorithm.greedy)(actor.actor, obs, ()),
    )
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray) and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    return actor


def as_dicts(sample):
    return dict(sample) if isinstance(sample, dict) else sample


def is_staged(actor):
    return all(call.__module__.endswith("staging") for call in actor.bound.values())


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", SPACES)
def test_ppo_acts_in_numpy_as_in_jax(observation, action):
    algorithm = adv.PPO(batch_size=64, hidden=(8, 8))
    assert is_staged(compare(algorithm, SPACES[observation], ACTIONS[action]))


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"activation": "silu"},
        {"activation": "elu"},
        {"action_bounds": "squash"},
        {"action_bounds": "squash", "action_spread": "state-dependent"},
        {"normalize_observation": False},
        {"share_network": True},
        {"hidden": ()},
    ],
    ids=str,
)
def test_every_kind_of_ppo_acts_in_numpy(options):
    algorithm = adv.PPO(**({"batch_size": 64, "hidden": (8, 8)} | options))
    assert is_staged(compare(algorithm, SPACES["float64"], ACTIONS["gaussian"]))


def test_a_network_that_needs_the_compiler_acts_through_it():
    def apply(params, x):
        return jnp.sort(x, axis=-1) * params

    algorithm = adv.PPO(batch_size=64, network=(lambda key, x: jnp.ones(x.shape[-1]), apply))
    assert not is_staged(compare(algorithm, SPACES["float64"], ACTIONS["gaussian"]))


def test_batches_of_several_sizes_and_new_parameters():
    algorithm = adv.PPO(batch_size=64)
    for batch in (1, 3, 8):
        compare(algorithm, SPACES["float64"], ACTIONS["gaussian"], batch)
    actor = compare(algorithm, SPACES["float64"], ACTIONS["discrete"], 4)
    for batch in (2, 4):
        obs = np.ones((batch, 3))
        assert actor.greedy(obs, ())[0].shape == (batch,)
    other = jax.tree.map(lambda leaf: leaf + 1, actor.actor)
    obs = np.ones((4, 3))
    noise = actor.noise(jax.random.key(2), (4,))
    got, expected = (
        HostActor(algorithm, other).act(obs, (), noise),
        algorithm.act(other, jnp.asarray(obs), (), noise),
    )
    np.testing.assert_array_equal(got[0], expected[0])
