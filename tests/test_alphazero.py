"""AlphaZero: returns of two players, search by mctx against exact values, and what the networks learn from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_learners import same_bits

import advantage as adv
from advantage.algorithms.planning.alphazero import Positions, returns_in_turn
from advantage.decisions import mistakes
from advantage.environments.worlds.line_game import LineGame
from advantage.environments.worlds.opponents import best_values
from advantage.models.interface import Imagined
from advantage.models.true_world import TrueModel
from advantage.planners.guided_search import guided_search
from advantage.theory.games import solve_game
from advantage.types import Rollout

pytest.importorskip("mctx")
KEY = jax.random.key(0)
GAME = LineGame()
SMALL = adv.AlphaZero(n_steps=8, batch_size=16, n_epochs=2, simulations=8, hidden=(16,))


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_returns_change_sides(lam, gamma):
    """A double loop in float64: what the other player gets is lost."""
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(9, 3)), rng.normal(size=(9, 3))
    terminated, truncated = rng.uniform(size=(2, 9, 3)) < 0.2
    found = returns_in_turn(
        jnp.float32(reward),
        jnp.float32(-gamma * (1 - terminated)),
        jnp.float32(value),
        jnp.float32(lam * (1 - (terminated | truncated))),
    )
    for b in range(3):
        z = None
        for t in reversed(range(9)):
            stop = z is None or truncated[t, b]
            later = value[t, b] if stop else (1 - lam) * value[t, b] + lam * z
            z = reward[t, b] - (0 if terminated[t, b] else gamma * later)
            np.testing.assert_allclose(found[t, b], z, atol=1e-5)


def positions(number, seed=0):
    """Boards with four stones or more, in which nobody has won."""
    rng, boards = np.random.default_rng(seed), []
    while len(boards) < number:
        stones = rng.integers(4, 8)
        cells, board = rng.permutation(9)[:stones], np.zeros(9, np.int8)
        board[cells[: stones // 2]], board[cells[stones // 2 :]] = 1, -1
        lines = board[GAME.lines]
        if not ((lines == 1).all(1) | (lines == -1).all(1)).any():
            boards.append(board.reshape(3, 3))
    return np.array(boards)


def flat_guide(state):
    """Knows nothing: all moves alike, every position a draw."""
    count = len(state.state)
    return jnp.zeros((count, 9)), jnp.zeros(count)


def searched(boards, search, simulations, explore=False, key=KEY):
    model = TrueModel(GAME)
    obs = jax.vmap(GAME.observe)(jnp.asarray(boards))
    return jax.jit(
        lambda obs: guided_search(
            model,
            model.begin(obs),
            key,
            flat_guide,
            search=search,
            simulations=simulations,
            gamma=1.0,
            explore=explore,
        )
    )(obs)


@pytest.mark.parametrize("search", ["gumbel", "puct"])
def test_search_without_knowledge_plays_well(search):
    """200 positions of tic-tac-toe: never an occupied cell, and hardly ever a move that gives something away."""
    boards = positions(200)
    values = np.asarray(jax.vmap(lambda board: best_values(GAME, board, 9))(jnp.asarray(boards)))
    found = searched(boards, search, 64)
    action = np.asarray(found.action)
    chosen = values[np.arange(200), action]
    assert (boards.reshape(200, 9)[np.arange(200), action] == 0).all()
    free = boards.reshape(200, 9) == 0
    best, worst = np.where(free, values, -2).max(1), np.where(free, values, 2).min(1)
    matters = best > worst
    assert matters.sum() > 100 and (chosen == best)[matters].mean() > 0.95
    np.testing.assert_allclose(found.policy.sum(1), 1, rtol=1e-5)
    assert (np.asarray(found.policy)[~free] == 0).all()


def test_noise_at_the_root_is_new_in_each_search():
    """From one position, with one simulation, the actions differ between keys; without noise they do not."""
    board = np.zeros((1, 3, 3), np.int8)
    for explore in (True, False):
        found = {int(searched(board, "gumbel", 1, explore, jax.random.key(i)).action[0]) for i in range(6)}
        assert (len(found) > 1) == explore


class Stairs:
    """Two steps up earn 1 and end the episode; action 1 goes up. Beyond the end nothing is a number."""

    sign = 1.0

    def begin(self, obs):
        return obs

    def step(self, state, action, key):
        beyond = jnp.where(state >= 2, jnp.nan, 0.0)
        following = state + action + beyond
        return Imagined(following, (following >= 2) + beyond, following >= 2)

    def observation(self, state):
        return state

    def allowed(self, state):
        return None


@pytest.mark.parametrize("search", ["gumbel", "puct"])
def test_what_a_model_says_after_an_end_means_nothing(search):
    def guide(state):
        ended = jnp.where(state >= 2, jnp.nan, 0.0)
        return jnp.zeros((len(state), 2)) + ended[:, None], 0.1 + ended

    found = guided_search(
        Stairs(), jnp.zeros(3), KEY, guide, search=search, simulations=64, gamma=0.9, explore=False
    )
    assert (np.asarray(found.action) == 1).all() and np.isfinite(found.policy).all()
    assert (np.asarray(found.value) < 0.9).all() and (np.asarray(found.value) > 0.5).all()


def test_updates_learn_what_the_search_found():
    """The gradient is that of the cross-entropy from the search's policy, and of the squared error, by hand."""
    spec = adv.Spec(GAME.observation_space, GAME.action_space, 4, 1000, world=GAME)
    state = SMALL.init(KEY, spec)
    actor = SMALL.actor(state)
    obs = jax.vmap(GAME.observe)(jnp.asarray(positions(6)))
    x = state.policy.encoder.policy_input(obs)
    policy = np.random.default_rng(1).dirichlet(np.ones(9), 6) * np.asarray(obs["action_mask"])
    policy /= policy.sum(1, keepdims=True)
    target = np.linspace(-1, 1, 6)
    batch = Positions(x, jnp.float32(policy), jnp.float32(target))
    loss, _ = SMALL._loss(state.params, state.policy, batch)
    logits, value = (np.float64(part) for part in actor.guide(actor.model.begin(obs)))
    free = np.asarray(obs["action_mask"]) == 1
    shifted = np.where(free, logits, -np.inf)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = -(policy * np.where(free, log_p, 0)).sum(1).mean() + 0.5 * ((target - value) ** 2).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def acted(share, number=4000):
    """What is done in an empty board by an agent that takes so many steps at random."""
    agent = dataclasses.replace(SMALL, exploration=share, simulations=2)
    state = agent.init(KEY, adv.Spec(GAME.observation_space, GAME.action_space, number, 1000, world=GAME))
    corner = jnp.zeros((3, 3), jnp.int8).at[0, 0].set(1).at[2, 2].set(-1)
    obs = jax.vmap(GAME.observe)(jnp.broadcast_to(corner, (number, 3, 3)))
    actor = agent.actor(state)
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (number, *jnp.shape(x))), agent.initial_memory(actor))
    noise = agent.noise(actor, KEY, (1, number))[0]
    action, _, extras = jax.jit(agent.act)(actor, obs, memory, noise)
    return np.asarray(action), np.asarray(extras["random"])


def test_some_steps_are_at_random_among_those_that_are_possible():
    action, random = acted(0.3)
    assert abs(random.mean() - 0.3) < 0.03
    share = np.bincount(action[random], minlength=9) / random.sum()
    np.testing.assert_allclose(share, np.array([0, 1, 1, 1, 1, 1, 1, 1, 0]) / 7, atol=0.04)
    assert not acted(0.0, 50)[1].any()


def test_returns_stop_before_a_step_at_random():
    """What follows a random move says nothing about its position and those before it; the search's value does."""
    agent = dataclasses.replace(SMALL, td_lambda=1.0)
    state = agent.init(KEY, adv.Spec(GAME.observation_space, GAME.action_space, 1, 1000, world=GAME))
    boards = jnp.asarray(positions(5))[:, None]
    obs = jax.vmap(jax.vmap(GAME.observe))(boards)
    none = jnp.zeros((4, 1), bool)
    extras = {
        "policy": jnp.full((4, 1, 9), 1 / 9),
        "value": jnp.array([[0.1], [0.2], [0.3], [0.4]]),
        "random": jnp.array([[False], [False], [True], [False]]),
    }
    rollout = Rollout(
        jax.tree.map(lambda x: x[:4], obs), jnp.zeros((4, 1), jnp.int32), jnp.zeros((4, 1)),
        jax.tree.map(lambda x: x[1:], obs), none, none, extras,
    )  # fmt: skip
    target = np.asarray(agent._positions(state, rollout).target).ravel()
    after = float(agent.actor(state).guide(state.rules.begin(jax.tree.map(lambda x: x[4], obs)))[1][0])
    np.testing.assert_allclose(target, [0.3, -0.3, 0.3, -after], atol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tic_tac_toe_is_learned_in_every_position(tmp_path):
    """The preset: an optimal move in at least 99.9 % of all 4,520 positions, and no game lost to the perfect player."""
    tuned = adv.preset("alphazero", "jax/TicTacToe-v0")
    adv.train(tuned.algorithm, "jax/TicTacToe-v0", out=tmp_path / "run", eval_episodes=0, **tuned.options)
    agent = adv.load(tmp_path / "run")
    found = mistakes(agent, solve_game(GAME))
    assert found.of == found.judged == 3191 and found.wrong <= 4
    assert adv.evaluate(agent, "jax/TicTacToePerfect-v0", episodes=300).returns.min() >= 0


def test_self_play_trains_resumes_and_meets_an_opponent(tmp_path):
    whole = adv.train(
        SMALL, "jax/TicTacToe-v0", out=tmp_path / "whole", total_timesteps=128, num_envs=4, eval_episodes=0,
        tensorboard=False,
    )  # fmt: skip
    adv.train(
        SMALL, "jax/TicTacToe-v0", out=tmp_path / "part", total_timesteps=64, num_envs=4, eval_episodes=0,
        tensorboard=False,
    )  # fmt: skip
    part = adv.resume(tmp_path / "part", total_timesteps=128)
    same_bits(whole.agent.state.params, part.agent.state.params)
    agent = adv.load(tmp_path / "whole")
    evaluation = adv.evaluate(agent, "jax/TicTacToePerfect-v0", episodes=6)
    assert set(evaluation.returns) <= {-1.0, 0.0}


def test_a_world_of_one_player(tmp_path):
    run = adv.train(
        dataclasses.replace(SMALL, gamma=0.99), "jax/CartPole-v1", out=tmp_path / "run", total_timesteps=64, num_envs=2,
        eval_episodes=1, tensorboard=False,
    )  # fmt: skip
    assert run.evaluation.mean > 8
    assert run.agent.state.rules.sign == 1.0


@pytest.mark.parametrize(
    "change",
    [
        dict(search="puct"),
        dict(simulations=3),
        dict(td_lambda=0.5),
        dict(exploration=0.9),
        dict(vf_coef=0.1),
        dict(weight_decay=0.1),
        dict(gamma=0.8),
        dict(max_grad_norm=0.01),
        dict(n_epochs=1),
        dict(share_network=True),
        dict(activation="relu"),
    ],
    ids=str,
)
def test_every_option_makes_a_difference(change, tmp_path):
    spec = adv.Spec(GAME.observation_space, GAME.action_space, 4, 1000, world=GAME)
    found = []
    for algorithm in (SMALL, dataclasses.replace(SMALL, **change)):
        run = adv.train(
            algorithm, "jax/TicTacToe-v0", out=tmp_path / str(len(found)), total_timesteps=64, num_envs=4,
            eval_episodes=0, tensorboard=False,
        )  # fmt: skip
        found.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(run.agent.state.params)]))
    assert spec.world is GAME
    assert found[0].shape != found[1].shape or (found[0] != found[1]).any()


def test_what_it_cannot_play():
    world = adv.make("jax/Pendulum-v1")
    spec = adv.Spec(world.observation_space, world.action_space, world=world)
    with pytest.raises(ValueError, match="AlphaZero needs Discrete actions.*cem-planning"):
        adv.AlphaZero().init(KEY, spec)
    with pytest.raises(ValueError, match="has no rules that a planner could use. Use muzero"):
        adv.AlphaZero().init(KEY, dataclasses.replace(spec, world=None))
