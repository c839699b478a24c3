"""Board games: rules against a second implementation, values against known facts, opponents against the rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import advantage as adv
from advantage.environments.environment import observing
from advantage.environments.make import resolve
from advantage.environments.worlds.line_game import LineGame
from advantage.environments.worlds.opponents import AgainstOpponent, best_values
from advantage.training.two_players import refuse_two_players

TIC_TAC_TOE, FOUR = LineGame(), LineGame(4, 5, 4, falls=True)
KEY = jax.random.key(0)


def wins(board, player, length):
    """Whether a player has a row: every window of every line, by hand."""
    rows, columns = board.shape
    for row in range(rows):
        for column in range(columns):
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                cells = [(row + i * down, column + i * right) for i in range(length)]
                inside = all(0 <= r < rows and 0 <= c < columns for r, c in cells)
                if inside and all(board[cell] == player for cell in cells):
                    return True
    return False


@pytest.mark.parametrize("game", [TIC_TAC_TOE, FOUR, LineGame(6, 7, 4, falls=True)], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_the_rules(game, seed):
    """Random games beside a board of +1 and -1 that is never turned round."""
    rng, step = np.random.default_rng(seed), jax.jit(game.step)
    board, (state, obs), player = np.zeros((game.rows, game.columns), int), game.reset(KEY), 1
    for _ in range(game.max_episode_steps):
        free = board[0] == 0 if game.falls else board.ravel() == 0
        np.testing.assert_array_equal(obs["action_mask"], free)
        np.testing.assert_array_equal(obs["observation"], [board == player, board == -player])
        np.testing.assert_array_equal(game.state_of(obs), state)
        action = rng.choice(np.flatnonzero(free))
        row = np.flatnonzero(board[:, action] == 0).max() if game.falls else action // game.columns
        board[row, action if game.falls else action % game.columns] = player
        state, obs, reward, terminated = step(state, jnp.int32(action), KEY)
        won = wins(board, player, game.length)
        assert (float(reward), bool(terminated)) == (float(won), won or (board != 0).all())
        player = -player
        if terminated:
            return
    pytest.fail("the game did not end")


def test_tic_tac_toe_has_its_positions_and_is_a_draw():
    """4,520 positions before the end; nobody wins from the empty board; the number of won ones is known by counting."""
    empty = jnp.zeros((3, 3), jnp.int8)
    values = best_values(TIC_TAC_TOE, empty, 9)
    np.testing.assert_array_equal(values, 0)
    from advantage.environments.worlds.opponents import _table

    table = _table(TIC_TAC_TOE)
    going = np.isfinite(table).any(1)
    assert going.sum() == 4520
    taken = empty.at[0, 0].set(-1)  # the other began in a corner: only the centre does not lose
    np.testing.assert_array_equal(best_values(TIC_TAC_TOE, taken, 9) == 0, np.arange(9) == 4)


def test_values_by_search_are_those_of_the_table():
    rng, game = np.random.default_rng(0), TIC_TAC_TOE
    from advantage.environments.worlds.opponents import _values

    found = 0
    while found < 5:
        cells = rng.permutation(9)[:5]
        board = np.zeros(9, np.int8)
        board[cells[:2]], board[cells[2:]] = 1, -1
        board = jnp.asarray(board.reshape(3, 3))
        if game.has_line(board) or game.has_line(-board):
            continue
        free = np.ravel(board) == 0
        left, right = best_values(game, board, 9), jax.jit(functools.partial(_values, game, depth=4))(board)
        np.testing.assert_array_equal(np.asarray(left)[free], np.asarray(right)[free])
        found += 1


def test_a_search_sees_a_win_and_a_threat():
    """Connect Four, four moves ahead: it completes its own row, else it stops the other's."""
    board = np.zeros((6, 7), np.int8)
    board[5, 0:3] = 1
    assert int(best_values(LineGame(6, 7, 4, falls=True), jnp.asarray(board), 2).argmax()) == 3
    values = best_values(LineGame(6, 7, 4, falls=True), jnp.asarray(-board), 2)
    np.testing.assert_array_equal(np.asarray(values) == -1, np.arange(7) != 3)


def play(world, policy, games, seed=0):
    """Final rewards of games of a policy `(state, key) -> action`."""

    def step(carry, key):
        state, ended, total = carry
        key_policy, key_world = jax.random.split(key)
        after, _, reward, terminated = world.step(state, policy(state, key_policy), key_world)
        state = jax.tree.map(lambda new, old: jnp.where(ended, old, new), after, state)
        return (state, ended | terminated, total + jnp.where(ended, 0, reward)), None

    def game(key):
        begin, keys = jax.random.split(key)
        start = world.reset(begin)[0], jnp.bool_(False), jnp.float32(0)
        return jax.lax.scan(step, start, jax.random.split(keys, world.max_episode_steps))[0][2]

    return np.asarray(jax.jit(jax.vmap(game))(jax.random.split(jax.random.key(seed), games)))


def at_random(game):
    def policy(state, key):
        return jax.random.categorical(key, jnp.where(game.allowed(state), 0.0, -jnp.inf))

    return policy


def test_opponents_play_as_well_as_they_say():
    """A perfect player never loses, and mostly beats a random one; of two perfect ones nobody wins."""
    perfect = AgainstOpponent(TIC_TAC_TOE, "perfect")
    found = play(perfect, at_random(TIC_TAC_TOE), 300)
    assert found.max() <= 0 and (found == -1).mean() > 0.7
    drawn = play(perfect, perfect.reply, 100)
    np.testing.assert_array_equal(drawn, 0)
    even = play(AgainstOpponent(TIC_TAC_TOE, "random"), at_random(TIC_TAC_TOE), 2000)
    assert abs(even.mean()) < 0.06  # a coin decides who begins


def test_an_opponent_that_searches_beats_one_that_does_not():
    game = LineGame(4, 5, 4, falls=True)
    found = play(AgainstOpponent(game, "search", depth=2), at_random(game), 100)
    assert (found == -1).mean() > 0.55 and (found == 1).mean() < 0.2


@pytest.mark.parametrize("name", ["jax/TicTacToeRandom-v0", "jax/ConnectFourRandom-v0"])
def test_any_method_with_masks_learns_a_game_against_an_opponent(name, tmp_path):
    algorithm = adv.PPO(n_steps=16, batch_size=32, hidden=(16,))
    run = adv.train(algorithm, name, out=tmp_path / "run", total_timesteps=128, num_envs=4, tensorboard=False)
    assert -1 <= run.evaluation.mean <= 1


def test_methods_that_take_both_players_for_one_are_refused():
    """Also where observations are stacked; those with the sign of the game, and those without returns, may play."""
    game = resolve("jax/TicTacToe-v0")
    games = [game, observing(game, ("action",), 2)]
    one_player = resolve("jax/TicTacToePerfect-v0")
    refused = [
        adv.PPO(), adv.DQN(), adv.Reinforce(baseline="none"), adv.PolicySearch(adv.CEM()), adv.MCTS(model="learned"),
        adv.Distill(teacher="shooting"),
    ]  # fmt: skip
    for algorithm in refused:
        refuse_two_players(algorithm, one_player)
        for each in games:
            with pytest.raises(ValueError, match="two players.*alphazero, or mcts.*jax/TicTacToePerfect-v0"):
                refuse_two_players(algorithm, each)
    for algorithm in (adv.AlphaZero(), adv.MCTS(), adv.Distill(teacher="mcts"), adv.BehaviourCloning()):
        refuse_two_players(algorithm, game)


def test_training_refuses_them(tmp_path):
    with pytest.raises(ValueError, match="ppo would add up the rewards of both"):
        adv.train(adv.PPO(), "jax/TicTacToe-v0", out=tmp_path / "run")


@pytest.mark.parametrize(
    ("size", "complaint"), [((2, 2, 3), "length=3"), ((3, 3, 0), "length=0"), ((0, 3, 3), "rows=0")]
)
def test_a_board_without_rows_to_win_is_refused(size, complaint):
    with pytest.raises(ValueError, match=f"{complaint} .*not allowed"):
        LineGame(*size)
