"""Observations, networks, heads and spaces: what each becomes, and the same numbers in NumPy and in JAX."""

import dataclasses
import functools
import json
import math
import types
from collections import OrderedDict

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from advantage.environments.spaces import environment_action, space_from_json, space_to_json
from advantage.policies.actor_critic import actor_critic, choose_network
from advantage.policies.distributions import Categorical, Gaussian, SquashedGaussian
from advantage.policies.encoder import encoder, picture_axis
from advantage.policies.heads import LOG_STD_RANGE, head, log_std_outputs
from advantage.policies.interface import describe_interface, large_layers
from advantage.policies.networks import (
    CNN,
    MLP,
    NATURE_LAYERS,
    SMALL_IMAGE_LAYERS,
    Custom,
    activate,
    as_network,
    convolve,
    linear_init,
    patches,
)
from advantage.running_moments import Normaliser

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (10, 10, 3), np.uint8)
BATCH = 5


def batch(space, seed=0, size=BATCH):
    """`size` observations, stacked leaf by leaf as the drivers stack them."""
    space.seed(seed)
    return stack([space.sample() for _ in range(size)])


def stack(samples):
    if isinstance(samples[0], dict):
        return {name: stack([sample[name] for sample in samples]) for name in samples[0]}
    if isinstance(samples[0], tuple):
        return tuple(stack(list(parts)) for parts in zip(*samples, strict=True))
    return np.stack(samples)


def to_jax(tree):
    """The tree on the device, in the dtypes that JAX has."""
    narrower = {"float64": np.float32, "int64": np.int32}
    return jax.tree.map(lambda x: jnp.asarray(x.astype(narrower.get(str(x.dtype), x.dtype))), tree)


def same(left, right, tolerance=0.0):
    """Equal leaf by leaf, in structure, shape and dtype."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# --- observations -------------------------------------------------------------------------------------------

NESTED = spaces.Dict(
    {
        "where": spaces.Tuple((spaces.Discrete(3, start=5), spaces.Box(-2, 2, (2, 2), np.float64))),
        "flags": spaces.MultiBinary((2, 3)),
        "deep": spaces.Dict({"x": spaces.Box(-1, 1, (), np.float32), "k": spaces.MultiDiscrete([2, 3])}),
    }
)
VECTORS = {  # space: (numbers that are normalised, width)
    "box": (BOX, 3, 3),
    "scalar box": (spaces.Box(0, 1, (), np.float32), 1, 1),
    "matrix": (spaces.Box(-1, 1, (2, 4), np.float32), 8, 8),
    "float64": (spaces.Box(-1, 1, (3,), np.float64), 3, 3),
    "float16": (spaces.Box(-1, 1, (3,), np.float16), 3, 3),
    "int64 box": (spaces.Box(-9, 9, (2, 2, 2), np.int64), 8, 8),
    "bytes of memory": (spaces.Box(0, 255, (128,), np.uint8), 128, 128),
    "small byte matrix": (spaces.Box(0, 255, (6, 7), np.uint8), 42, 42),
    "discrete": (spaces.Discrete(4), 0, 4),
    "discrete from -2": (spaces.Discrete(4, start=-2), 0, 4),
    "multidiscrete": (spaces.MultiDiscrete([2, 5]), 0, 7),
    "multidiscrete from": (spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[0, 1], [-3, 7]]), 0, 11),
    "multibinary": (spaces.MultiBinary(3), 0, 3),
    "multibinary matrix": (spaces.MultiBinary((2, 2)), 0, 4),
    "dict": (spaces.Dict({"a": BOX, "b": spaces.Discrete(2)}), 3, 5),
    "tuple": (spaces.Tuple((spaces.Discrete(2), BOX)), 3, 5),
    "nested": (NESTED, 5, 5 + 3 + 6 + 5),
}


@pytest.mark.parametrize("name", VECTORS)
def test_every_observation_becomes_a_float32_vector_of_the_declared_width(name):
    space, continuous, width = VECTORS[name]
    encode = encoder(space)
    assert encode.num_continuous == continuous
    assert not encode.images
    x = encode.encode(batch(space))
    assert isinstance(x, np.ndarray)
    assert (x.shape, x.dtype) == ((BATCH, width), np.float32)
    example = encode.encode(encode.example())
    assert (example.shape, example.dtype) == ((1, width), np.float32)


@pytest.mark.parametrize("name", VECTORS)
def test_an_observation_is_encoded_alike_in_numpy_in_jax_and_with_a_time_axis(name):
    obs, encode = batch(VECTORS[name][0]), encoder(VECTORS[name][0])
    x = encode.encode(obs)
    same(np.asarray(encode.encode(to_jax(obs))), x)
    timed = jax.tree.map(lambda leaf: np.stack([leaf, leaf[::-1]]), obs)
    same(encode.encode(timed), np.stack([x, x[::-1]]))


@pytest.mark.parametrize("name", VECTORS)
def test_the_continuous_numbers_stand_first_and_alone_are_normalised(name):
    space, continuous, _ = VECTORS[name]
    obs, encode = batch(space), encoder(space)
    plain, shifted = encode.encode(obs), encode.encode(obs, lambda x: x + 100)
    np.testing.assert_array_equal(shifted[:, :continuous], plain[:, :continuous] + 100)
    np.testing.assert_array_equal(shifted[:, continuous:], plain[:, continuous:])
    if continuous:
        np.testing.assert_array_equal(encode.continuous(obs), plain[:, :continuous])


def test_a_nested_observation_is_encoded_number_by_number():
    obs = {
        "where": (np.array([6]), np.array([[[0.5, 1.0], [1.5, 2.0]]])),
        "flags": np.array([[[1, 0, 0], [0, 1, 1]]], np.int8),
        "deep": {"x": np.array([-0.25], np.float32), "k": np.array([[1, 2]])},
    }
    order = list(NESTED.spaces)
    assert sorted(order) == ["deep", "flags", "where"]
    continuous = {"where": [0.5, 1.0, 1.5, 2.0], "deep": [-0.25], "flags": []}
    others = {"where": [0, 1, 0], "deep": [0, 1, 0, 0, 1], "flags": [1, 0, 0, 0, 1, 1]}
    expected = [n for key in order for n in continuous[key]] + [n for key in order for n in others[key]]
    np.testing.assert_array_equal(encoder(NESTED).encode(obs)[0], np.array(expected, np.float32))


def test_an_index_becomes_one_hot_and_its_start_is_honoured():
    one_hot = encoder(spaces.Discrete(3, start=4)).encode(np.array([4, 5, 6]))
    np.testing.assert_array_equal(one_hot, np.eye(3))
    space = spaces.MultiDiscrete([2, 3], start=[10, -1])
    np.testing.assert_array_equal(
        encoder(space).encode(np.array([[10, -1], [11, 1]])), [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1]]
    )


IMAGES = {  # space: what the network gets
    "channels last": (IMAGE, (10, 10, 3)),
    "channels first": (spaces.Box(0, 255, (4, 12, 9), np.uint8), (12, 9, 4)),
    "grey": (spaces.Box(0, 255, (40, 36), np.uint8), (40, 36, 1)),
    "one channel": (spaces.Box(0, 255, (10, 8, 1), np.uint8), (10, 8, 1)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_scaled_to_between_zero_and_one_with_channels_last(name):
    space, shape = IMAGES[name]
    obs, encode = batch(space), encoder(space)
    assert encode.num_continuous == 0
    assert len(encode.images) == 1
    assert encode.images[0].height_width == shape[:2]
    x = encode.encode(obs)
    assert (x.shape, x.dtype) == ((BATCH, *shape), np.float32)
    expected = obs.astype(np.float64) / 255
    expected = {
        "channels first": lambda: expected.transpose(0, 2, 3, 1),
        "grey": lambda: expected[..., None],
    }.get(name, lambda: expected)()
    np.testing.assert_allclose(x, expected, rtol=1e-6)
    same(np.asarray(encode.encode(jnp.asarray(obs))), x, 1e-7)
    assert encode.encode(np.full_like(obs, 255)).max() == 1


def board(low, high, shape=(6, 6, 3), dtype=np.uint8):
    return spaces.Box(low, high, shape, dtype)


def channelwise(low, high):
    low, high = (np.broadcast_to(np.uint8(bound), (4, 5, 3)) for bound in (low, high))
    return spaces.Box(low, high, dtype=np.uint8)


STACKS = {  # space: where its axes go, and what the network gets
    "frames, height, width, colours": (board(0, 255, (4, 9, 8, 3)), (1, 2, 0, 3), (9, 8, 12)),
    "frames, colours, height, width": (board(0, 255, (4, 3, 9, 8)), (2, 3, 0, 1), (9, 8, 12)),
    "height, width, colours, frames": (board(0, 255, (9, 8, 3, 4)), (0, 1, 2, 3), (9, 8, 12)),
    "height, width, frames, colours": (board(0, 255, (9, 8, 4, 3)), (0, 1, 2, 3), (9, 8, 12)),
    "frames, height, width, grey": (board(0, 255, (4, 9, 8, 1)), (1, 2, 0, 3), (9, 8, 4)),
    "floats": (spaces.Box(0, 1, (2, 40, 36, 3), np.float32), (1, 2, 0, 3), (40, 36, 6)),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack_of_frames_is_folded_into_channels_whatever_the_order_of_its_axes(name):
    space, order, shape = STACKS[name]
    obs, encode = batch(space), encoder(space)
    x = encode.encode(obs)
    assert (x.shape, x.dtype) == ((BATCH, *shape), np.float32)
    moved = obs.astype(np.float64).transpose(0, *(axis + 1 for axis in order)).reshape(BATCH, *shape)
    np.testing.assert_allclose(x, moved / float(space.high.max()), rtol=1e-6)
    same(np.asarray(encode.encode(jnp.asarray(obs))), x, 1e-7)
    timed = np.stack([obs, obs[::-1]])
    np.testing.assert_array_equal(encode.encode(timed), np.stack([x, x[::-1]]))
    (text,) = describe_interface(space, spaces.Discrete(2), "bounds")
    assert f"{shape[0]} x {shape[1]} pixels" in text and f"{shape[2]} channels" in text


@pytest.mark.parametrize(
    ("space", "scaled"),
    [
        (board(0, 1), lambda x: x),
        (board(0, 255), lambda x: x / 255),
        (board(10, 20), lambda x: (x - 10) / 10),
        (spaces.Box(-3, 5, (36, 40, 1), np.int16), lambda x: (x + 3) / 8),
        (spaces.Box(0, 1, (36, 36, 3), np.bool_), lambda x: x),
        (channelwise([0, 0, 2], [1, 10, 4]), lambda x: (x - np.array([0, 0, 2])) / np.array([1, 10, 2])),
        (board(7, 7), lambda x: x - 7),
    ],
    ids=["0 or 1", "bytes", "from 10 to 20", "below zero", "flags", "by channel", "constant"],
)
def test_a_picture_is_scaled_by_its_bounds(space, scaled):
    obs = batch(space)
    x = encoder(space).encode(obs)
    np.testing.assert_allclose(x, scaled(obs.astype(np.float64)), rtol=1e-6, atol=1e-7)
    if not np.array_equal(space.low, space.high):
        assert x.min() >= 0
        assert encoder(space).encode(space.high[None]).max() == 1
    same(np.asarray(encoder(space).encode(jnp.asarray(obs))), x, 1e-6)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (40, 40, 3), np.float32),
        spaces.Box(0, 1, (10, 10, 4), np.bool_),
        spaces.Box(0, 1, (40, 40), np.float32),
        spaces.Box(0, 255, (2, 9, 2, 9), np.uint8),
        spaces.Box(0, 255, (2, 4, 40, 40, 3), np.uint8),
    ],
    ids=["unbounded", "small flags", "matrix", "no two axes", "five axes"],
)
def test_what_is_no_picture_stays_a_vector(space):
    assert not encoder(space).images


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((4, 4, 16), 0), ((16, 4, 4), 1), ((3, 64, 64), 1), ((84, 84, 4), 0),
        ((210, 160, 3), 0), ((3, 210, 160), 1), ((9, 9, 9), 0),
    ],
)  # fmt: skip
def test_the_picture_of_three_axes_is_the_square_or_the_greater_one(shape, axis):
    assert picture_axis(spaces.Box(0, 1, shape, np.uint8)) == axis


def test_a_dense_layer_of_more_than_20_000_numbers_is_told():
    action = spaces.Discrete(2)
    for space, number in (
        (spaces.Box(0, 1, (25_000,), np.float32), "25,000"),
        (spaces.Dict({"a": board(0, 255, (400, 400, 3)), "b": BOX}), f"{46 * 46 * 64 + 3:,}"),
    ):
        (text,) = large_layers(space)
        assert number in text
        assert "network of your own" in text
    assert large_layers(spaces.Box(0, 1, (20_000,), np.float32)) == []
    assert large_layers(board(0, 255, (4, 96, 96, 3))) == []
    assert describe_interface(spaces.Box(0, 1, (25_000,), np.float32), action, "bounds") == []


def test_images_beside_numbers_come_as_a_tuple_with_the_vector_first():
    space = spaces.Dict({"a": IMAGE, "b": BOX, "c": spaces.Discrete(2), "d": IMAGES["channels first"][0]})
    obs = batch(space)
    vector, first, second = encoder(space).encode(obs, lambda x: 2 * x)
    np.testing.assert_array_equal(vector[:, :3], 2 * obs["b"])
    np.testing.assert_array_equal(vector[:, 3:], np.eye(2)[obs["c"]])
    np.testing.assert_allclose(first, obs["a"] / 255, rtol=1e-6)
    np.testing.assert_allclose(second, np.moveaxis(obs["d"], 1, -1) / 255, rtol=1e-6)


def test_two_images_alone_come_without_a_vector():
    vector, first, second = encoder(spaces.Tuple((IMAGE, IMAGE))).encode(batch(spaces.Tuple((IMAGE, IMAGE))))
    assert vector is None
    assert first.shape == second.shape == (BATCH, 10, 10, 3)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("space", "where"),
    [
        (spaces.Text(5), "observation space is Text"),
        (
            spaces.Dict({"a": BOX, "b": spaces.Tuple((BOX, spaces.Sequence(BOX)))}),
            r"space['b'][1] is Sequence",
        ),
    ],
)
def test_an_observation_space_that_is_not_covered_is_named_with_its_place_and_the_remedy(space, where):
    with pytest.raises(ValueError) as error:
        encoder(space)
    for part in (where, "allowed are Box, Discrete, MultiDiscrete, MultiBinary", "TransformObservation"):
        assert part in str(error.value)


# --- what the environment is given --------------------------------------------------------------------------


@pytest.mark.parametrize("to", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_an_action_counted_from_zero_gets_the_start_of_its_space(to):
    action = to(np.array([0, 2], np.int32))
    np.testing.assert_array_equal(environment_action(spaces.Discrete(3), action), [0, 2])
    np.testing.assert_array_equal(environment_action(spaces.Discrete(3, start=-4), action), [-4, -2])
    parts = tuple(to(np.array(column, np.int32)) for column in ([0, 1], [2, 0]))
    np.testing.assert_array_equal(environment_action(spaces.MultiDiscrete([2, 3]), parts), [[0, 2], [1, 0]])
    space = spaces.MultiDiscrete([2, 3], start=[5, -1])
    np.testing.assert_array_equal(environment_action(space, parts), [[5, 1], [6, -1]])
    space = spaces.MultiDiscrete([[2], [3]], start=[[5], [-1]])
    np.testing.assert_array_equal(environment_action(space, parts), [[[5], [1]], [[6], [-1]]])


@pytest.mark.parametrize("to", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_a_box_gets_its_bounds_its_shape_and_its_dtype_back(to):
    low = np.array([[-1, 0], [-np.inf, 2]], np.float32)
    space = spaces.Box(low, np.array([[1, 0.5], [np.inf, 3]], np.float32))
    given = environment_action(space, to(np.array([[-7, 9, 1e6, 2.5], [0.5, 0.25, -3, 1]], np.float32)))
    np.testing.assert_array_equal(given, [[[-1, 0.5], [1e6, 3]], [[0.5, 0.3125], [-3, 3]]])
    raw = environment_action(space, to(np.array([[-7, 9, 1e6, 2.5], [0.5, 0.25, -3, 1]], np.float32)), "raw")
    np.testing.assert_array_equal(raw, [[[-1, 0.5], [1e6, 2.5]], [[0.5, 0.25], [-3, 2]]])
    half = environment_action(spaces.Box(-1, 1, (), np.float16), to(np.array([[0.25], [4]], np.float32)))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, [0.25, 1])


def test_a_float64_box_gets_float64_actions_inside_its_bounds():
    space = spaces.Box(-0.1, 0.1, (1,), np.float64)
    given = environment_action(space, np.array([[5.0], [-5.0]], np.float32))
    assert given.dtype == np.float64
    assert all(space.contains(action) for action in given)


ACTIONS = {
    "discrete": spaces.Discrete(4),
    "discrete from 3": spaces.Discrete(2, start=3),
    "multidiscrete": spaces.MultiDiscrete([2, 4], start=[1, -1]),
    "multidiscrete matrix": spaces.MultiDiscrete([[2, 3], [4, 2]]),
    "multibinary": spaces.MultiBinary(3),
    "multibinary matrix": spaces.MultiBinary((2, 2)),
    "box": spaces.Box(-0.3, 0.3, (2,), np.float32),
    "box matrix": spaces.Box(np.float32(-1), np.float32(2), (2, 2)),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "tuple": spaces.Tuple((spaces.Discrete(3, start=1), spaces.Box(-0.1, 0.1, (2,), np.float32))),
    "dict": spaces.Dict(
        {"go": spaces.MultiBinary(2), "at": spaces.Tuple((spaces.MultiDiscrete([2, 2]), BOX))}
    ),
}
POLICIES = {
    **{(name, "clip", "state-independent"): space for name, space in ACTIONS.items()},
    **{(name, "clip", "state-dependent"): ACTIONS[name] for name in ("box", "dict")},
    **{(name, "squash", "state-independent"): ACTIONS[name] for name in ("box", "tuple")},
    ("box matrix", "squash", "state-dependent"): ACTIONS["box matrix"],
}


def policy_over(action_space, observation_space=BOX, network=None, **changes):
    options = (
        dict(shared=False, initialisation="orthogonal", bounds="clip", spread="state-independent") | changes
    )
    network = choose_network(network, observation_space, (8,), "tanh", options["initialisation"])
    return actor_critic(observation_space, action_space, network, **options)


def leaves_of(x, index):
    return jax.tree.map(lambda leaf: leaf[index], x)


@functools.cache
def acting(case):
    """`-> space, policy, actor's parameters, noise [4, BATCH]` of a case, away from uniform, in NumPy."""
    _, bounds, spread = case
    policy = policy_over(POLICIES[case], bounds=bounds, spread=spread, initialisation="normal")

    @jax.jit
    def draw(key):
        key_init, key_noise = jax.random.split(key)
        return policy.init(key_init, -0.5)["actor"], policy.head.noise(key_noise, (4, BATCH))

    return POLICIES[case], policy, *jax.device_get(draw(jax.random.key(1)))


@pytest.mark.parametrize("case", POLICIES, ids=str)
def test_promise_5_a_policy_acts_alike_in_numpy_and_in_jax_and_its_actions_are_in_the_space(case):
    space, policy, actor, noise = acting(case)
    x = policy.encoder.encode(batch(BOX))
    noise = leaves_of(noise, 0)

    def act(actor, x, noise):
        distribution = policy.distribution(actor, x)
        action = distribution.sample(noise)
        return action, distribution.mode(), distribution.log_prob(action), distribution.entropy()

    in_numpy = act(actor, x, noise)
    in_jax = jax.jit(act)(actor, x, noise)
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(in_numpy))
    same(in_numpy, jax.device_get(in_jax), 2e-5)
    assert in_numpy[2].shape == in_numpy[3].shape == (BATCH,)
    given = environment_action(space, in_numpy[0])
    same(to_jax(given), environment_action(space, in_jax[0]), 2e-5)
    for action in (leaves_of(given, i) for i in range(BATCH)):
        as_integers = jax.tree.map(
            lambda a: (
                a.astype(np.int64) if isinstance(a, np.generic | np.ndarray) and a.dtype == np.int32 else a
            ),
            action,
        )
        assert space.contains(as_integers), f"{action} is not in {space}"


@pytest.mark.parametrize("case", POLICIES, ids=str)
def test_noise_for_a_whole_rollout_has_the_axes_of_the_rollout_and_gives_actions_per_step(case):
    _, policy, actor, noise = acting(case)
    x = np.broadcast_to(batch(BOX), (4, BATCH, 3))
    whole = policy.distribution(actor, x).sample(noise)
    for t in range(4):
        step = policy.distribution(actor, x[t]).sample(leaves_of(noise, t))
        for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(leaves_of(whole, t)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


# --- heads --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_outputs", "num_log_std"),
    [
        ("discrete", 4, 0),
        ("multidiscrete matrix", 11, 0),
        ("multibinary matrix", 4, 0),
        ("box matrix", 4, 4),
        ("tuple", 5, 2),
        ("dict", 2 + 4 + 3, 3),
    ],
)
def test_a_head_has_an_output_for_every_number_its_distribution_needs(name, num_outputs, num_log_std):
    part = head(ACTIONS[name])
    assert (part.num_outputs, part.num_log_std) == (num_outputs, num_log_std)
    dependent = head(ACTIONS[name], spread="state-dependent")
    assert (dependent.num_outputs, dependent.num_log_std) == (num_outputs + num_log_std, 0)


def test_a_product_gives_each_part_its_own_outputs_and_deviations():
    space = spaces.Tuple(
        (spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3), spaces.Box(-1, 1, (1,), np.float32))
    )
    first, second, third = head(space).distribution(np.arange(6.0), np.array([10.0, 11.0, 12.0])).parts
    same(first, Gaussian(np.array([0.0, 1.0]), np.array([10.0, 11.0])))
    same(second, Categorical(np.array([2.0, 3.0, 4.0])))
    same(third, Gaussian(np.array([5.0]), np.array([12.0])))


def test_a_state_dependent_spread_is_an_output_that_starts_at_log_std_init_and_is_held_in_its_range():
    policy = policy_over(ACTIONS["box"], spread="state-dependent")
    params = policy.init(jax.random.key(0), -0.7)
    assert params["actor"]["log_std"].shape == (0,)
    np.testing.assert_array_equal(log_std_outputs(policy.head), [0, 0, 1, 1])
    first = policy.distribution(params["actor"], jnp.asarray(batch(BOX)))
    assert first.log_std.shape == (BATCH, 2)
    np.testing.assert_allclose(first.log_std, -0.7, atol=0.1)
    np.testing.assert_allclose(first.mean, 0, atol=0.1)
    assert jnp.ptp(first.log_std) > 0
    wild = policy.head.distribution(np.array([[0.0, 0.0, -99.0, 99.0]]), np.zeros(0))
    np.testing.assert_array_equal(wild.log_std[0], LOG_STD_RANGE)


def test_a_state_independent_spread_is_a_parameter_that_starts_at_log_std_init():
    params = policy_over(ACTIONS["box"]).init(jax.random.key(0), -0.7)
    np.testing.assert_allclose(params["actor"]["log_std"], [-0.7, -0.7])
    assert params["actor"]["head"]["bias"].shape == (2,)
    mixed = policy_over(ACTIONS["tuple"], spread="state-dependent")
    np.testing.assert_array_equal(log_std_outputs(mixed.head), [0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_allclose(
        mixed.init(jax.random.key(0), -0.7)["actor"]["head"]["bias"], [0, 0, 0, 0, 0, -0.7, -0.7]
    )


def test_squashed_actions_fill_the_bounds_and_never_leave_them():
    low, high = np.array([-2, 0], np.float32), np.array([-1, 100], np.float32)
    space = spaces.Box(low, high)
    for units in ("bounds", "raw"):
        distribution = head(space, "squash", units=units).distribution(
            np.zeros((1, 2), np.float32), np.zeros(2, np.float32)
        )
        assert isinstance(distribution, SquashedGaussian)
        chosen = distribution.sample(np.array([[-50, 50], [50, -50], [0, 0]], np.float32))
        actions = environment_action(space, chosen, units)
        np.testing.assert_allclose(actions, [[-2, 100], [-1, 0], [-1.5, 50]], atol=1e-4)
        assert (actions >= low).all()
        assert (actions <= high).all()


def test_squashing_an_unbounded_box_is_an_error_that_says_what_to_do():
    for space in (ACTIONS["unbounded"], spaces.Tuple((ACTIONS["unbounded"],))):
        with pytest.raises(ValueError) as error:
            head(space, "squash")
        for part in (
            "action_bounds='squash' needs finite bounds",
            "inf",
            "action_bounds='clip'",
            "RescaleAction",
        ):
            assert part in str(error.value)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Box(0, 9, (2,), np.int32),
        spaces.Tuple((spaces.Discrete(2), spaces.Graph(BOX, None))),
    ],
    ids=["text", "integers", "graph in a tuple"],
)
def test_an_action_space_that_is_not_covered_is_named_with_what_is_allowed(space):
    with pytest.raises(ValueError) as error:
        head(space)
    for part in (
        "The action space",
        "has no policy",
        "Discrete, MultiDiscrete, MultiBinary, Box of floats",
        "Transform",
    ):
        assert part in str(error.value)


# --- networks -----------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "tanh": math.tanh,
    "relu": lambda x: max(x, 0.0),
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_its_definition_and_its_gradient_is_finite_everywhere(name):
    x = np.array([-600, -90, -3, -0.5, -1e-4, 0, 1e-4, 0.5, 3, 600], np.float32)
    expected = [ACTIVATIONS[name](float(number)) for number in x]
    np.testing.assert_allclose(activate(name, x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(activate(name, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)
    gradient = jax.vmap(jax.grad(lambda x: activate(name, x)))(jnp.asarray(x))
    assert jnp.isfinite(gradient).all()
    assert np.isnan(activate(name, np.float32([np.nan]))) and jnp.isnan(activate(name, jnp.array([jnp.nan])))
    if name == "relu":
        np.testing.assert_array_equal(gradient, x > 0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_mlp_is_its_layers_one_after_another_in_numpy_and_in_jax(name):
    network = MLP((5, 4), name)
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    params = jax.device_get(network.init(jax.random.key(0), x))
    assert [layer["weight"].shape for layer in params] == [(3, 5), (5, 4)]
    params[1]["bias"] = np.array([1, -1, 2, 0], np.float32)
    expected = x.astype(np.float64)
    for layer in params:
        expected = expected @ layer["weight"].astype(np.float64) + layer["bias"]
        expected = np.vectorize(ACTIVATIONS[name], otypes=[float])(expected)
    features = network.apply(params, x)
    assert isinstance(features, np.ndarray)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(network.apply)(params, x), expected, rtol=1e-5, atol=1e-5)


def test_an_mlp_without_hidden_layers_is_the_identity():
    x = np.ones((2, 3), np.float32)
    network = MLP(())
    np.testing.assert_array_equal(network.apply(network.init(jax.random.key(0), x), x), x)


def kernel_of(weight, kernel, stride, channels):
    """The matrix of `convolve` as a kernel `[height, width, in, out]`."""
    if stride > 1 and kernel % stride == 0:  # rows: window (i, j), then the place inside it, then the channel
        folded = kernel // stride
        blocks = weight.reshape(folded, folded, stride, stride, channels, -1)
        return blocks.transpose(0, 2, 1, 3, 4, 5).reshape(kernel, kernel, channels, -1)
    return weight.reshape(kernel, kernel, channels, -1)


@pytest.mark.parametrize(("kernel", "stride"), [(8, 4), (4, 2), (3, 1), (3, 2), (1, 1), (2, 2)])
@pytest.mark.parametrize("size", [(8, 8), (11, 9), (13, 22)])
def test_a_convolution_is_the_convolution_of_lax(kernel, stride, size):
    rng = np.random.default_rng(kernel)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    weight = rng.normal(size=(kernel * kernel * 3, 5)).astype(np.float32)
    params = {"weight": weight, "bias": rng.normal(size=5).astype(np.float32)}
    expected = jax.lax.conv_general_dilated(
        x,
        kernel_of(weight, kernel, stride, 3),
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    actual = convolve(params, x, kernel, stride)
    assert isinstance(actual, np.ndarray)
    np.testing.assert_allclose(actual, expected + params["bias"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(convolve(params, jnp.asarray(x), kernel, stride), actual, rtol=1e-4, atol=1e-4)


def test_patches_are_the_windows_of_the_image():
    x = np.arange(2 * 5 * 7 * 2, dtype=np.float32).reshape(2, 5, 7, 2)
    windows = patches(x, 3, 2)
    assert windows.shape == (2, 2, 3, 18)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(windows[1, i, j], x[1, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].ravel())


@pytest.mark.parametrize(
    ("space", "layers"),
    [
        (IMAGE, SMALL_IMAGE_LAYERS),
        (spaces.Box(0, 255, (36, 45, 1), np.uint8), NATURE_LAYERS),
        (spaces.Tuple((BOX, IMAGE, spaces.Box(0, 255, (3, 11, 12), np.uint8))), SMALL_IMAGE_LAYERS),
        (spaces.Tuple((IMAGE, IMAGE)), SMALL_IMAGE_LAYERS),
    ],
    ids=["small", "odd size", "two images and a vector", "two images"],
)
def test_a_cnn_gives_the_same_features_in_numpy_and_in_jax_and_every_input_counts(space, layers):
    network = CNN(layers, 16, "normal")
    assert choose_network(None, space, (64,), "tanh", "normal") == dataclasses.replace(network, features=512)
    x = encoder(space).encode(batch(space, size=2))
    params = jax.device_get(network.init(jax.random.key(0), x))
    features = network.apply(params, x)
    assert isinstance(features, np.ndarray)
    assert (features.shape, features.dtype) == ((2, 16), np.float32)
    assert features.max() > 0
    np.testing.assert_allclose(jax.jit(network.apply)(params, x), features, rtol=1e-4, atol=1e-5)
    gradients = jax.grad(lambda x: jnp.sum(network.apply(params, x)))(x)
    for gradient in jax.tree.leaves(gradients):
        assert jnp.abs(gradient).max() > 0


def test_the_nature_network_has_the_papers_shapes():
    network, x = CNN(), np.zeros((1, 84, 84, 4), np.float32)
    assert network.layers == ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    assert [layer["weight"].shape for layer in shapes["convolutions"][0]] == [(256, 32), (512, 64), (576, 64)]
    assert shapes["dense"]["weight"].shape == (7 * 7 * 64, 512)


def test_orthogonal_layers_are_orthonormal_times_their_gains():
    shapes, gains = [(6, 6), (9, 4), (4, 9), (5, 1), (6, 6)], [0.3, 1.0, 2.0, 0.01, 0.3]
    layers = linear_init(jax.random.key(0), shapes, gains)
    for (inputs, outputs), gain, layer in zip(shapes, gains, layers, strict=True):
        weight = np.float64(layer["weight"]) / gain
        assert weight.shape == (inputs, outputs)
        product = weight.T @ weight if inputs >= outputs else weight @ weight.T
        np.testing.assert_allclose(product, np.eye(min(inputs, outputs)), atol=1e-5)
        np.testing.assert_array_equal(layer["bias"], np.zeros(outputs))
    assert np.abs(layers[0]["weight"] - layers[4]["weight"]).max() > 0.01


@pytest.mark.parametrize("shape", [(3, 3), (2, 4)])
def test_orthogonal_layers_favour_no_direction(shape):
    """Every entry of a uniformly distributed one has mean 0 and variance 1 / the longer side."""
    draw = jax.jit(jax.vmap(lambda key: linear_init(key, [shape], [1.0])[0]["weight"]))
    weights, longer = np.float64(draw(jax.random.split(jax.random.key(0), 10_000))), max(shape)
    np.testing.assert_allclose(weights.mean(0), 0, atol=4 * (1 / longer / 10_000) ** 0.5)
    np.testing.assert_allclose(weights.var(0), 1 / longer, rtol=0.05)


def test_the_layers_of_a_policy_have_the_gains_of_the_reference_code():
    policy = policy_over(ACTIONS["discrete"])
    params = policy.init(jax.random.key(0), 0.0)
    for layer, gain in (
        (params["actor"]["network"][0], 2**0.5),
        (params["critic"]["network"][0], 2**0.5),
        (params["actor"]["head"], 0.01),
        (params["critic"]["head"], 1.0),
    ):
        singular = np.linalg.svd(np.float64(layer["weight"]), compute_uv=False)
        np.testing.assert_allclose(singular, gain, rtol=1e-5)
    both = params["actor"]["network"][0]["weight"], params["critic"]["network"][0]["weight"]
    assert not np.array_equal(*both)


def test_normal_initialisation_has_variance_one_over_the_inputs_everywhere():
    weight = np.float64(linear_init(jax.random.key(0), [(400, 300)], [7.0], "normal")[0]["weight"])
    np.testing.assert_allclose(weight.mean(), 0, atol=1e-3)
    np.testing.assert_allclose(weight.var(), 1 / 400, rtol=0.02)
    params = policy_over(
        ACTIONS["discrete"], network=MLP((256,), "tanh", "normal"), initialisation="normal"
    ).init(jax.random.key(1), 0.0)
    np.testing.assert_allclose(np.var(params["actor"]["head"]["weight"]), 1 / 256, rtol=0.2)
    image = np.zeros((1, 10, 10, 4), np.float32)
    convolution = CNN(((256, 3, 1),), 8, "normal").init(jax.random.key(2), image)["convolutions"][0][0]
    np.testing.assert_allclose(np.var(convolution["weight"]), 1 / 36, rtol=0.1)


def test_a_shared_network_is_the_actors_and_the_critics():
    shared, apart = (policy_over(ACTIONS["box"], shared=shared) for shared in (True, False))
    x = batch(BOX)
    for policy, one in ((shared, True), (apart, False)):
        params = policy.init(jax.random.key(0), 0.0)
        assert ("network" in params["critic"]) is not one
        changed = jax.tree.map(lambda leaf: leaf, params)
        changed["actor"]["network"][0]["bias"] = params["actor"]["network"][0]["bias"] + 1
        before, after = policy.value(params, x), policy.value(changed, x)
        assert before.shape == (BATCH,)
        assert np.array_equal(before, after) is not one


def test_the_value_is_a_linear_function_of_the_critics_features():
    policy = policy_over(ACTIONS["discrete"])
    params = jax.device_get(policy.init(jax.random.key(0), 0.0))
    x = batch(BOX)
    layer, last = params["critic"]["network"][0], params["critic"]["head"]
    expected = np.tanh(x @ layer["weight"] + layer["bias"]) @ last["weight"][:, 0] + last["bias"]
    np.testing.assert_allclose(policy.value(params, x), expected, rtol=1e-5)


@pytest.mark.parametrize("wrong", [3, "MLP", (len,), (len, 4), [len, len]], ids=str)
def test_what_is_not_a_network_is_an_error_that_shows_what_is(wrong):
    with pytest.raises(ValueError) as error:
        as_network(wrong)
    for part in (repr(wrong), "a pair (init, apply)", "adv.MLP", "adv.from_flax"):
        assert part in str(error.value)


def test_a_pair_and_an_object_with_init_and_apply_are_networks():
    def init(key, x):
        return {"w": jax.random.normal(key, (x.shape[-1], 2))}

    def apply(params, x):
        return jnp.tanh(x @ params["w"])

    pair = as_network((init, apply))
    assert pair == Custom(init, apply)
    params = pair.init(jax.random.key(0), np.ones((1, 3), np.float32))
    assert pair.apply(params, jnp.ones((4, 3))).shape == (4, 2)

    foreign = types.SimpleNamespace(init=init, apply=apply)
    assert as_network(foreign) == Custom(init, apply)
    assert as_network(MLP((3,))) == MLP((3,))
    policy = policy_over(ACTIONS["discrete"], network=(init, apply))
    drawn = policy.init(jax.random.key(0), 0.0)
    assert drawn["actor"]["head"]["weight"].shape == (2, 4)
    assert policy.value(drawn, jnp.ones((BATCH, 3))).shape == (BATCH,)


def test_a_normaliser_is_applied_before_the_network():
    scaler = Normaliser(np.array([1, 2, 3], np.float32), np.float32(0.5), np.float32(10))
    encode = encoder(BOX)
    np.testing.assert_array_equal(encode.encode(np.array([[3, 2, -1]], np.float32), scaler), [[1, 0, -2]])


# --- spaces as JSON -----------------------------------------------------------------------------------------

SPACES = [
    *(space for space, *_ in VECTORS.values()),
    *(space for space, _ in IMAGES.values()),
    *ACTIONS.values(),
    spaces.Box(np.array([-np.inf, 0, -1], np.float32), np.array([np.inf, np.inf, 1], np.float32)),
    spaces.Box(-np.inf, np.inf, (2, 2), np.float64),
    spaces.Box(np.array([0.1, 1 / 3]), np.array([0.2, 1e30]), dtype=np.float64),
    spaces.Box(-(2**62), 2**62 + 1, (2,), np.int64),
    spaces.Discrete(3, start=-1, dtype=np.int32),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back_from_json_as_it_was(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    back = space_from_json(json.loads(text))
    assert back == space
    assert type(back) is type(space)
    assert back.dtype == space.dtype
    assert back.shape == space.shape


def test_a_space_of_a_class_of_ones_own_comes_back_as_gymnasiums():
    class Angles(spaces.Box):
        pass

    space = Angles(-3, 3, (2,), np.float32)
    back = space_from_json(json.loads(json.dumps(space_to_json(space))))
    assert type(back) is spaces.Box
    assert back == space and space == back


def test_a_dict_space_keeps_its_order():
    space = spaces.Dict(OrderedDict(z=BOX, a=spaces.Discrete(2)))
    back = space_from_json(json.loads(json.dumps(space_to_json(space), sort_keys=True)))
    assert isinstance(back, gymnasium.spaces.Dict)
    assert list(back.spaces) == list(space.spaces) == ["z", "a"]


@pytest.mark.parametrize(
    "facts",
    [
        {},
        [],
        {"type": "Text", "shape": [], "dtype": "float32"},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": 0},
        {"type": "Box", "shape": [2], "dtype": "float32", "low": [0, 0, 0], "high": 1},
        {"type": "Box", "shape": [2], "dtype": "no such", "low": 0, "high": 1},
        {"type": "Discrete", "shape": [], "dtype": "int64", "n": -3, "start": 0},
        {"type": "Dict", "spaces": [1]},
    ],
    ids=str,
)
def test_json_that_is_no_space_is_a_value_error_that_shows_it(facts):
    with pytest.raises(ValueError, match="does not describe a space"):
        space_from_json(facts)
