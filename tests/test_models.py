"""Learned models: what they recover, how sure they are, and what they refuse."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

import advantage as adv
from advantage.models.ensemble import (
    Ensemble,
    LearnedModel,
    Prediction,
    Scales,
    Transitions,
    calibrated,
    scales_update,
)
from advantage.models.fit import (
    bootstrap_index,
    fit,
    held_out_index,
    is_held_out,
    learned_init,
    train_index,
)
from advantage.models.open_loop import open_loop_errors
from advantage.models.vectors import VectorSpaces, vector_spaces
from advantage.planners.action_sequences import PlannedActions
from advantage.planners.imagination import PlanningProblem
from advantage.planners.tree_search import tree_search
from advantage.policies.networks import MLP
from advantage.replay.ring import replay_add, replay_init
from advantage.replay.sequences import ReplayedSequences, sequences_at
from advantage.report import model_report
from advantage.runs.folder import RunFolder
from advantage.runs.log import read_progress
from advantage.types import Rollout

KEY = jax.random.key(0)
A = np.array([[0.9, 0.1], [-0.2, 0.8]])
B = np.array([[0.0], [0.5]])


def linear_rollout(envs, steps=1, noise=0.0, seed=0):
    """`s' = A s + B a + noise`, reward `s'_0 - 0.3 a`; each step begins somewhere else."""
    rng = np.random.default_rng(seed)
    s, a = rng.normal(size=(steps, envs, 2)), rng.uniform(-1, 1, (steps, envs, 1))
    following = s @ A.T + a @ B.T + noise * rng.normal(size=s.shape)
    reward = following[..., 0] - 0.3 * a[..., 0]
    true = np.ones((steps, envs), bool)  # every step begins anew
    s, a, reward, following = (np.asarray(x, np.float32) for x in (s, a, reward, following))
    return Rollout(s, a, reward, following, terminated=~true, truncated=true)


def stored(rollout, capacity=None):
    vector, action = (jax.ShapeDtypeStruct(x.shape[2:], x.dtype) for x in (rollout.obs, rollout.action))
    count = rollout.reward.size if capacity is None else capacity
    return replay_add(replay_init(vector, action, capacity=count, num_envs=rollout.reward.shape[1]), rollout)


def read(rows):
    return Transitions(rows.obs, rows.action, rows.reward, rows.next_obs, rows.discount == 0)


def all_rows(rollout):
    flat = [x.reshape(-1, *x.shape[2:]) for x in rollout[:5]]
    return Transitions(flat[0], flat[1], flat[2], flat[3], flat[4])


def fitted(ensemble, rollout, max_steps, **options):
    learned = learned_init(ensemble, KEY)
    learned = learned._replace(scales=scales_update(learned.scales, all_rows(rollout)))
    program = functools.partial(fit, ensemble, learned, stored(rollout), read, jax.random.key(1))
    options = dict(learning_rate=3e-3, batch_size=256, max_steps=jnp.int32(max_steps)) | options
    return jax.jit(lambda: program(**options))()


BOX = VectorSpaces(spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1, 1, (1,)))


def test_linear_dynamics_are_recovered():
    """The matrices from the model's own derivatives, within 1e-3."""
    ensemble = Ensemble(MLP((), "silu"), 3, 3, members=2, kind="deterministic")
    learned, _ = fitted(ensemble, linear_rollout(4000), 4000, learning_rate=3e-3)
    model = LearnedModel(ensemble, BOX, learned.members, learned.scales)
    for member in range(2):

        def outputs(x, a, member=member):
            inputs = jnp.stack([x] * 2), jnp.stack([a] * 2)  # the i-th state belongs to member i
            return model.sample(*inputs, KEY)[0][member]

        at = jnp.array([0.3, -0.4]), jnp.array([0.2])
        by_state, by_action = jax.jacobian(outputs, (0, 1))(*at)
        np.testing.assert_allclose(by_state[:2] + np.eye(2), A, atol=1e-3)
        np.testing.assert_allclose(by_action[:2], B, atol=1e-3)
        np.testing.assert_allclose(by_state[2], A[0], atol=1e-3)
        np.testing.assert_allclose(by_action[2], B[0] - 0.3, atol=1e-3)


def test_intervals_cover_at_their_rate():
    """Of noisy transitions that were never seen, 90 % lie in the 90 % interval of each member, half in the 50 % one."""
    ensemble = Ensemble(MLP((32,), "silu"), 3, 3, members=3)
    learned, metrics = fitted(ensemble, linear_rollout(20_000, noise=0.2), 600, batch_size=512)
    assert 0.8 < float(metrics["model_calibration"]) < 1.25
    new = all_rows(linear_rollout(5000, noise=0.2, seed=9))
    predicted = jax.vmap(ensemble.predict, (0, None, None))(learned.members, learned.scales, new.inputs)
    moments = learned.scales.outputs
    z = (new.outputs - moments.mean.value) / jnp.sqrt(moments.variance.value)
    std = jnp.exp(0.5 * predicted.log_variance) * learned.scales.calibration
    error = jnp.abs(z - predicted.mean) / std
    for rate, width in ((0.9, 1.6449), (0.5, 0.6745)):
        np.testing.assert_allclose((error < width).mean((0, 1)), rate, atol=0.03)


def test_calibration_by_its_definition():
    """Predictions twice too sure get a factor of two."""

    @dataclasses.dataclass(frozen=True)
    class Sure:
        kind: str = "gaussian"

        def predict(self, member, scales, inputs):
            zero = jnp.zeros((len(inputs), 2))
            return Prediction(zero, jnp.full(zero.shape, np.log(0.25)) + 0 * member, zero[:, 0])

    scales = Ensemble(MLP((4,)), 2, 2, 1).scales_init()
    one = jnp.array([1.0, -1.0, 1.0, -1.0])
    rows = Transitions(jnp.zeros((4, 1)), jnp.zeros((4, 1)), one, one[:, None], one > 2)
    found = calibrated(Sure(), jnp.zeros(3), scales, rows)
    np.testing.assert_allclose(found.calibration, 2.0, rtol=1e-5)


def test_the_loss_by_its_definition():
    ensemble = Ensemble(MLP((8,), "silu"), 3, 3, members=1)
    member = jax.tree.map(lambda x: x[0], ensemble.init(KEY))
    rows = all_rows(linear_rollout(7, noise=0.1))._replace(terminated=np.arange(7) % 2 == 0)
    scales = scales_update(ensemble.scales_init(), rows)
    predicted = ensemble.predict(member, scales, rows.inputs)
    x = np.float64(rows.outputs)
    z = (x - x.mean(0)) / x.std(0)
    v = np.exp(np.float64(predicted.log_variance))
    squares = 0.5 * ((z - np.float64(predicted.mean)) ** 2 / v + np.log(v))
    p = 1 / (1 + np.exp(-np.float64(predicted.end)))
    ends = -np.where(rows.terminated, np.log(p), np.log(1 - p))
    np.testing.assert_allclose(ensemble.loss(member, scales, rows), squares.mean() + ends.mean(), rtol=1e-4)
    plain = dataclasses.replace(ensemble, kind="deterministic")
    squares = 0.5 * (z - np.float64(predicted.mean)) ** 2
    np.testing.assert_allclose(plain.loss(member, scales, rows), squares.mean() + ends.mean(), rtol=1e-4)


def test_variances_are_bounded_softly():
    ensemble = Ensemble(MLP((8,), "silu"), 3, 3, members=1)
    member = jax.tree.map(lambda x: x[0], ensemble.init(KEY))
    member["head"]["bias"] = member["head"]["bias"].at[3:6].set(jnp.array([-1e3, 0.0, 1e3]))
    predicted = ensemble.predict(member, ensemble.scales_init(), jnp.zeros((1, 3)))
    low, _, high = predicted.log_variance[0]
    assert -10.01 < low < -9.9 and 0.4 < high < 0.51


def test_terminations_are_predicted():
    """Where the MDP ends half of the time depends on the state: the model says where."""
    rollout = linear_rollout(2000)
    rollout = rollout._replace(terminated=rollout.obs[..., 0] > 0.5, truncated=rollout.obs[..., 0] <= 0.5)
    ensemble = Ensemble(MLP((32,), "silu"), 3, 3, members=2)
    learned, _ = fitted(ensemble, rollout, 600)
    model = LearnedModel(ensemble, BOX, learned.members, learned.scales)
    new = linear_rollout(1000, seed=3)
    after = model.step(jnp.asarray(new.obs[0]), jnp.asarray(new.action[0]), KEY)
    assert (np.asarray(after.terminated) == (new.obs[0, :, 0] > 0.5)).mean() > 0.97


def test_a_world_is_not_believed_to_end_before_it_has():
    """Of rewards below zero a policy would seek an end, also one that does not exist."""
    ensemble = Ensemble(MLP((32,), "silu"), 3, 3, members=2)
    learned, _ = fitted(ensemble, linear_rollout(100), 100)
    for members in (ensemble.init(KEY), learned.members):
        model = LearnedModel(ensemble, BOX, members, learned.scales)
        x, a = 3 * jax.random.normal(KEY, (20_000, 2)), jnp.zeros((20_000, 1))
        assert np.asarray(model.step(x, a, KEY).terminated).mean() < 0.003


@pytest.mark.parametrize(("kind", "share"), [("gaussian", 0.3), ("deterministic", 0.0)])
def test_terminations_come_as_often_as_predicted(kind, share):
    """At odds of 3 to 7, three of ten particles end; a deterministic model tells only what is likelier."""
    ensemble = Ensemble(MLP((8,), "silu"), 3, 3, members=2, kind=kind)
    members = jax.tree.map(jnp.zeros_like, ensemble.init(KEY))
    members["head"]["bias"] = members["head"]["bias"].at[:, -1].set(np.log(3 / 7))
    model = LearnedModel(ensemble, BOX, members, ensemble.scales_init())
    after = model.step(jnp.zeros((20_000, 2)), jnp.zeros((20_000, 1)), KEY)
    assert np.asarray(after.terminated).mean() == pytest.approx(share, abs=0.02)


def test_particles_keep_to_their_member():
    """State i of N belongs to member i mod E, whatever N is."""
    ensemble = Ensemble(MLP((8,), "silu"), 3, 3, members=3, kind="deterministic")
    members, scales = ensemble.init(KEY), ensemble.scales_init()
    model = LearnedModel(ensemble, BOX, members, scales)
    x, a = jax.random.normal(KEY, (7, 2)), jnp.zeros((7, 1))
    found, _ = model.sample(x, a, KEY)
    for i in range(7):
        one = jax.tree.map(lambda leaf, i=i: leaf[i % 3], members)
        expected = ensemble.predict(one, scales, jnp.concatenate([x[i], a[i]])).mean
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)


def test_a_tree_meets_every_member_of_an_ensemble():
    """Members whose one step ends with the rewards 0, 1 and 5, in different states: an action is worth their mean."""
    ensemble = Ensemble(MLP((4,), "silu"), 2, 2, members=3, kind="deterministic")
    members = jax.tree.map(jnp.zeros_like, ensemble.init(KEY))
    outputs = jnp.array(
        [[1.0, 0, 0, 0, 9], [2, 1, 0, 0, 9], [3, 5, 0, 0, 9]]
    )  # change, reward, two variances, end
    members["head"]["bias"] = outputs
    seen = VectorSpaces(spaces.Box(-np.inf, np.inf, (1,)), spaces.Discrete(1))
    model = LearnedModel(ensemble, seen, members, ensemble.scales_init())
    tree = tree_search(
        PlanningProblem(model, PlannedActions(choices=1), 1.0), jnp.zeros(1), KEY, lambda state, key: jnp.zeros(()),
        simulations=200, successors=3, exploration=1.0,
    )  # fmt: skip
    assert set(np.asarray(tree.reward[1 : int(tree.size)])) == {0, 1, 5}
    assert float(tree.action_value[0, 0]) == pytest.approx(2, abs=0.5)


def test_noise_of_the_model_is_scaled_by_its_calibration():
    ensemble = Ensemble(MLP((8,), "silu"), 3, 3, members=1)
    members, scales = ensemble.init(KEY), ensemble.scales_init()
    x, a = jnp.zeros((20_000, 2)), jnp.zeros((20_000, 1))
    std = []
    for factor in (1.0, 3.0):
        model = LearnedModel(ensemble, BOX, members, scales._replace(calibration=jnp.full(3, factor)))
        std.append(np.asarray(model.sample(x, a, KEY)[0]).std(0))
    np.testing.assert_allclose(std[1] / std[0], 3.0, rtol=1e-3)


# -- what is fitted to what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("envs", "steps", "capacity"), [(2, 37, 40), (2, 300, 100), (1, 109, 100)])
def test_held_out_transitions_are_never_fitted(envs, steps, capacity):
    """A tenth, the same ones as long as they are stored, also after the ring has wrapped, and if it is the oldest."""
    rollout = linear_rollout(envs, steps)
    replay = stored(rollout, capacity)
    index = jnp.arange(int(replay.stored))
    held = np.asarray(is_held_out(replay, index))
    numbers = int(replay.oldest) * envs + np.arange(int(replay.stored))
    np.testing.assert_array_equal(held, numbers % 10 == 9)
    drawn = np.asarray(bootstrap_index(replay, KEY, jnp.int32(1), 3000))
    assert not held[drawn].any() and drawn.min() >= 0 and drawn.max() < replay.stored
    assert not held[train_index(replay, index)].any()
    checked = np.asarray(held_out_index(replay, KEY, 3000))
    assert held[checked].all() and set(checked) == set(np.flatnonzero(held))


def test_members_have_bootstrap_samples_of_their_own():
    """About 63 % of the transitions each, not the same, and the same ones in every batch."""
    replay = stored(linear_rollout(500))
    seen = []
    for member in range(2):
        draws = [
            set(np.asarray(bootstrap_index(replay, jax.random.key(i), jnp.int32(member), 6000)))
            for i in range(2)
        ]
        assert len(draws[0] ^ draws[1]) < 5
        seen.append(draws[0] | draws[1])
    assert 0.5 * 500 < len(seen[0]) < 0.68 * 500
    assert len(seen[0] ^ seen[1]) > 100


def test_fitting_stops_when_held_out_transitions_get_no_better():
    """Of pure noise nothing can be learned: it stops early, and keeps the best parameters."""
    rng = np.random.default_rng(0)
    rollout = linear_rollout(200)
    rollout = rollout._replace(
        next_obs=rng.normal(size=(1, 200, 2)).astype(np.float32),
        reward=rng.normal(size=(1, 200)).astype(np.float32),
    )
    ensemble = Ensemble(MLP((32,), "silu"), 3, 3, members=2)
    learned, metrics = fitted(ensemble, rollout, 5000, batch_size=64)
    assert metrics["model_gradient_steps"] < 4000
    later, _ = fitted(ensemble, rollout, 50, batch_size=64)
    assert (learned.loss <= later.loss + 1e-6).all()


def test_errors_by_horizon_are_those_of_a_loop():
    """Each sequence alone, by its member; predictions beyond an end or the newest step do not count."""
    rng, steps, size = np.random.default_rng(0), 4, 6
    ensemble = Ensemble(MLP((8,), "silu"), 3, 3, members=2)
    scales = scales_update(ensemble.scales_init(), all_rows(linear_rollout(50)))
    model = LearnedModel(ensemble, BOX, ensemble.init(KEY), scales)
    obs, action, next_obs = (jnp.asarray(rng.normal(size=(steps, size, d)), jnp.float32) for d in (2, 1, 2))
    terminated, truncated = rng.uniform(size=(2, steps, size)) < 0.2
    mask = np.arange(steps)[:, None] < rng.integers(1, steps + 1, size)
    flags = map(jnp.asarray, (terminated, truncated))
    rows = ReplayedSequences(obs, action, jnp.zeros((steps, size)), *flags, next_obs, (), jnp.asarray(mask))
    errors, number = open_loop_errors(model, rows, KEY)
    std = np.sqrt(np.asarray(scales.inputs.variance.value))[:2]
    found = [[] for _ in range(steps)]
    for n in range(size):
        member, x = jax.tree.map(lambda leaf, n=n: leaf[n % 2], model.members), obs[0, n]
        for h in range(steps):
            if not mask[h, n]:
                break
            mean = ensemble.predict(member, scales, jnp.concatenate([x, action[h, n]])).mean
            moments = scales.outputs
            x = x + (moments.mean.value + jnp.sqrt(moments.variance.value) * mean)[:2]
            found[h].append(np.square((x - next_obs[h, n]) / std).mean())
            if terminated[h, n] or truncated[h, n]:
                break
    assert list(map(len, found)) == list(number)
    np.testing.assert_allclose(errors, [np.sqrt(np.mean(each)) if each else 0 for each in found], rtol=1e-4)


def test_a_model_alone_gets_better(tmp_path):
    """A pendulum is predicted better after more experience, and nearer better than far."""
    algorithm = adv.WorldModel(n_steps=200, members=2, model_hidden=(32,), model_epochs=40, horizon=8)
    run = adv.train(
        algorithm,
        "jax/Pendulum-v1",
        out=tmp_path / "run",
        total_timesteps=1000,
        eval_episodes=0,
        tensorboard=False,
    )
    progress = read_progress(RunFolder(run.path))
    near, far = progress["train/error_1"], progress["train/error_8"]
    assert near[-1] < 0.5 * near[0] and near[-1] < far[-1]
    assert (run.path / "model.png").stat().st_size > 10_000
    agent = run.agent
    found = model_report(agent.state, 8)
    assert found is not None and "3 sequences of 8 steps" in found.lines(None, [])[0]
    true, predicted = found.predictions
    assert true.shape == (9, 3, 3) and predicted.shape == (9, 3, 2, 3)
    model, rows = agent.state.learning.model, all_steps(agent.state.learning.replay)
    for member in range(2):  # each network alone, step by step
        alone = model._replace(
            ensemble=dataclasses.replace(model.ensemble, kind="deterministic"),
            members=jax.tree.map(lambda x, member=member: x[member][None], model.members),
        )
        np.testing.assert_array_equal(predicted[0, :, member], true[0])
        imagine = jax.jit(alone.step)
        for n in range(3):
            first = int(np.abs(rows.obs - true[0, n]).sum(-1).argmin())
            x = true[:1, n]
            for step in range(8):
                x = imagine(x, rows.action[first + step][None], KEY).state
                np.testing.assert_allclose(predicted[step + 1, n, member], x[0], atol=1e-4)
                np.testing.assert_allclose(true[step + 1, n], rows.next_obs[first + step], atol=1e-6)


def all_steps(replay):
    """Every stored step of one environment, oldest first."""
    return jax.tree.map(
        lambda x: np.asarray(x)[:, 0], sequences_at(replay, jnp.zeros(1, int), length=int(replay.stored))
    )


# -- vectors -----------------------------------------------------------------------------------------------------------

NESTED = spaces.Dict(
    b=spaces.Box(-1, 1, (2, 2)), a=spaces.Tuple([spaces.Box(0, 5, (3,)), spaces.Box(-9, 9, ())])
)


def test_observations_become_vectors_and_back():
    vectors = vector_spaces(adv.Spec(NESTED, spaces.Discrete(3)))
    NESTED.seed(0)
    many = [NESTED.sample() for _ in range(4)]
    obs = jax.tree.map(lambda *x: np.stack(x), *map(dict, many))
    x = vectors.vector(obs)
    assert x.shape == (4, vectors.size) == (4, 8)
    back = vectors.obs(x)
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-6), obs, back)
    assert jax.tree.structure(obs) == jax.tree.structure(back)
    np.testing.assert_array_equal(vectors.action_vector(jnp.array([2, 0])), [[0, 0, 1], [1, 0, 0]])
    wild = vectors.obs(vectors.bounded(x + 100))
    assert wild["b"].max() == 1 and wild["a"][0].max() == 5 and wild["a"][1].max() == 9


@pytest.mark.parametrize(
    ("observation", "action", "words"),
    [
        (spaces.Box(0, 255, (32, 32, 3), np.uint8), spaces.Discrete(2), "has an image"),
        (spaces.Discrete(4), spaces.Discrete(2), "has indices.*--model true"),
        (
            spaces.Dict(action_mask=spaces.MultiBinary(2), x=spaces.Box(0, 1, (2,))),
            spaces.Discrete(2),
            "has an action mask",
        ),
        (spaces.Box(0, 1, (2,)), spaces.MultiDiscrete([2, 2]), "Discrete actions or a Box"),
    ],
)
def test_what_a_model_cannot_predict(observation, action, words):
    with pytest.raises(ValueError, match=words):
        vector_spaces(adv.Spec(observation, action))


def test_scales_are_running_statistics():
    rollout = linear_rollout(300)
    scales: Scales = Ensemble(MLP((4,)), 3, 3, 1).scales_init()
    for part in (slice(0, 100), slice(100, 300)):
        scales = scales_update(scales, all_rows(Rollout(*(x[:, part] for x in rollout[:6]))))
    rows = all_rows(rollout)
    np.testing.assert_allclose(scales.inputs.mean.value, rows.inputs.mean(0), atol=1e-5)
    np.testing.assert_allclose(scales.outputs.variance.value, rows.outputs.var(0), rtol=1e-4)
