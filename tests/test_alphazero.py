"""AlphaZero: returns of two players, search by mctx against exact values, and what the networks learn from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe_learners import same_bits

import advantage as adv
from advantage.algorithms.planning.alphazero import returns_in_turn
from advantage.environments.worlds.line_game import LineGame
from advantage.environments.worlds.opponents import best_values
from advantage.models.true_world import TrueModel
from advantage.planners.guided_search import guided_search

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
    from advantage.algorithms.planning.alphazero import Positions

    batch = Positions(x, jnp.float32(policy), jnp.float32(target))
    loss, _ = SMALL._loss(state.params, state.policy, batch)
    logits, value = (np.float64(part) for part in actor.guide(actor.model.begin(obs)))
    free = np.asarray(obs["action_mask"]) == 1
    shifted = np.where(free, logits, -np.inf)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = -(policy * np.where(free, log_p, 0)).sum(1).mean() + 0.5 * ((target - value) ** 2).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


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
    with pytest.raises(ValueError, match="has no rules that a planner could use"):
        adv.AlphaZero().init(KEY, dataclasses.replace(spec, world=None))
