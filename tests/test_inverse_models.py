"""Models that look back: they recover linear dynamics and choices, and are trained like models that look ahead."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_learners import same_bits

import advantage as adv
from advantage.algorithms.registry import algorithm_name, from_json, to_json
from advantage.models.ensemble import Ensemble, Transitions, scales_update
from advantage.models.fit import fit, learned_init
from advantage.models.inverse import InverseAction, InverseState, action_examples, state_examples
from advantage.models.vectors import VectorSpaces
from advantage.policies.networks import MLP
from advantage.replay.ring import replay_add, replay_init
from advantage.types import Rollout

KEY = jax.random.key(0)
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
A = np.array([[0.9, 0.1], [-0.2, 0.8]])
B = np.array([[0.5, 0.1], [0.0, 0.4]])
BOX = VectorSpaces(spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(-1, 1, (2,)))


def linear_rollout(number, seed=0):
    """`s' = A s + B a`, reward `s_0 - 0.3 a_0`; each step begins somewhere else."""
    rng = np.random.default_rng(seed)
    s, a = rng.normal(size=(1, number, 2)), rng.uniform(-1, 1, (1, number, 2))
    true = np.ones((1, number), bool)
    parts = s, a, s[..., 0] - 0.3 * a[..., 0], s @ A.T + a @ B.T
    return Rollout(*(np.asarray(x, np.float32) for x in parts), terminated=~true, truncated=true)


def rows_of(rollout):
    return Transitions(*(x[0] for x in rollout[:5]))


def fitted(examples, num_inputs, num_outputs):
    """A linear network on 4,000 transitions, by the trainer of all models."""
    ensemble = Ensemble(MLP((), "silu"), num_inputs, num_outputs, 1, "deterministic")
    rollout = linear_rollout(4000)
    vector = jax.ShapeDtypeStruct((2,), jnp.float32)
    replay = replay_add(replay_init(vector, vector, capacity=4000, num_envs=4000), rollout)
    learned = jax.jit(lambda: learned_init(ensemble, KEY))()
    learned = learned._replace(scales=scales_update(learned.scales, examples(rows_of(rollout))))

    def read(rows):
        return examples(Transitions(rows.obs, rows.action, rows.reward, rows.next_obs, rows.discount == 0))

    program = functools.partial(fit, ensemble, learned, replay, read, jax.random.key(1))
    learned, _ = jax.jit(lambda: program(learning_rate=1e-2, batch_size=64, max_steps=jnp.int32(3000)))()
    return ensemble, BOX, learned.members, learned.scales


def test_predictions_by_their_definition():
    """The mean over members, unscaled, from what stands for each question; by networks with known weights."""
    rows, rng = rows_of(linear_rollout(6)), np.random.default_rng(2)
    for examples, outputs in ((action_examples, 2), (state_examples, 3)):
        ensemble = Ensemble(MLP((), "silu"), 4, outputs, 3, "deterministic")
        members = jax.tree.map(
            lambda x: jnp.float32(rng.normal(size=x.shape)), jax.eval_shape(ensemble.init, KEY)
        )
        scales = quick_jit(scales_update)(ensemble.scales_init(), examples(rows))
        before = rows.x if examples is action_examples else rows.action
        inputs = np.concatenate([before, rows.next_x] if outputs == 2 else [rows.next_x, before], axis=1)
        wanted = rows.action if outputs == 2 else np.column_stack([rows.x - rows.next_x, rows.reward])
        kernel, bias = (
            np.float64(part)[..., :outputs] for part in (members["head"]["weight"], members["head"]["bias"])
        )
        x = (inputs - inputs.mean(0)) / inputs.std(0)
        mean = np.mean([x @ kernel[i] + bias[i] for i in range(3)], axis=0)
        expected = wanted.mean(0) + wanted.std(0) * mean
        if outputs == 2:
            found = quick_jit(InverseAction(ensemble, BOX, members, scales).action)(rows.x, rows.next_x)
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        else:
            x, reward = quick_jit(InverseState(ensemble, BOX, members, scales).before)(
                rows.next_x, rows.action
            )
            np.testing.assert_allclose(x, rows.next_x + expected[:, :2], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(reward, expected[:, 2], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_action_between_two_states_is_recovered():
    """`a = B^+ (s' - A s)` within 1e-3: the matrices, and the actions of new transitions."""
    model = InverseAction(*fitted(action_examples, 4, 2))
    by_obs, by_next = jax.jacobian(lambda x, after: model.action(x[None], after[None])[0], (0, 1))(
        *jnp.ones((2, 2))
    )
    inverse = np.linalg.pinv(B)
    np.testing.assert_allclose(by_next, inverse, atol=1e-3)
    np.testing.assert_allclose(by_obs, -inverse @ A, atol=1e-3)
    new = rows_of(linear_rollout(100, seed=9))
    np.testing.assert_allclose(model.action(new.x, new.next_x), new.action, atol=5e-3)


@pytest.mark.slow
def test_the_state_before_is_recovered():
    """`s = A^-1 (s' - B a)` and the reward of the step, within 1e-3."""
    model = InverseState(*fitted(state_examples, 4, 3))

    def before(after, action):
        x, reward = model.before(after[None], action[None])
        return jnp.append(x[0], reward[0])

    by_next, by_action = jax.jacobian(before, (0, 1))(*jnp.ones((2, 2)))
    inverse = np.linalg.inv(A)
    np.testing.assert_allclose(by_next, np.vstack([inverse, inverse[0]]), atol=1e-3)
    by_choice = -inverse @ B
    np.testing.assert_allclose(by_action, np.vstack([by_choice, by_choice[0] - [0.3, 0]]), atol=1e-3)


SMALL = adv.InverseModel(
    n_steps=100, model_hidden=(16,), members=2, model_epochs=30, model_kind="deterministic"
)


@pytest.mark.slow
def test_choices_are_recovered_from_experience_and_training_resumes(tmp_path):
    """CartPole: which of two pushes lies between two observations that were never seen, in at least 97 of 100."""
    options = dict(num_envs=1, eval_episodes=1, tensorboard=False)
    whole = adv.train(SMALL, "jax/CartPole-v1", out=tmp_path / "whole", total_timesteps=400, **options)
    adv.train(SMALL, "jax/CartPole-v1", out=tmp_path / "part", total_timesteps=200, **options)
    part = adv.resume(tmp_path / "part", total_timesteps=400)
    same_bits(whole.agent.state.learning.learned.members, part.agent.state.learning.learned.members)
    world = adv.make("jax/CartPole-v1")
    state, obs = jax.vmap(world.reset)(jax.random.split(KEY, 200))
    push = jnp.arange(200) % 2
    after = jax.vmap(world.step)(state, push, jax.random.split(KEY, 200))[1]
    model = SMALL.model(adv.load(tmp_path / "whole").state)
    assert (np.asarray(model.action(obs, after)) == push).mean() > 0.97


@pytest.mark.slow
def test_the_state_before_is_learned_from_experience():
    """One update of the algorithm, with a termination among the steps."""
    agent = adv.InverseModel(
        predicts="state", n_steps=200, model_hidden=(), members=1, model_kind="deterministic"
    )
    world = adv.make("jax/CartPoleContinuous-v0")
    state = agent.init(KEY, adv.Spec(world.observation_space, world.action_space, 200, 1000))
    start, obs = jax.vmap(world.reset)(jax.random.split(KEY, 200))
    action = jax.random.uniform(KEY, (200, 1), minval=-1.0)
    _, after, reward, terminated = jax.vmap(world.step)(start, action, jax.random.split(KEY, 200))
    steps = (obs, action, reward, after, terminated.at[3].set(True), jnp.ones(200, bool))
    rollout = Rollout(*jax.tree.map(lambda x: x[None], steps))
    state, metrics = jax.jit(agent.update)(state, rollout, KEY)
    found, _ = agent.model(state).before(after, action)
    spread = np.abs(np.asarray(after) - np.asarray(obs)).mean()
    assert np.abs(np.asarray(found) - np.asarray(obs)).mean() < 0.4 * spread
    assert float(metrics["error"]) > 0.5  # of networks that had learned nothing yet


def test_what_it_cannot_learn():
    world = adv.make("jax/Catch-v0")
    with pytest.raises(ValueError, match="needs Boxes of numbers, and the observation has an image"):
        SMALL.init(KEY, adv.Spec(world.observation_space, world.action_space))


def test_runs_with_options_that_had_no_effect_are_loaded():
    """What acts at random for ever has no start of learning, and no discount; an unknown option is still one."""
    for algorithm, removed in (
        (adv.WorldModel(), {"gamma": 0.9, "learning_starts": 200}),
        (adv.InverseModel(), {"learning_starts": 200}),
    ):
        name = algorithm_name(algorithm)
        assert from_json(name, to_json(algorithm) | removed) == algorithm
        with pytest.raises(ValueError, match="no hyperparameter 'horizons'"):
            from_json(name, to_json(algorithm) | {"horizons": 1})
