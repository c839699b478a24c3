"""Tetris on the device against the same game written from its definition, and its twin in Gymnasium's interface."""

from __future__ import annotations

import functools
from functools import partial

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tetris_oracle as oracle

from advantage.environments.check import check_environment
from advantage.environments.make import environment_names, make, resolve
from advantage.environments.spaces import space_from_json, space_to_json
from advantage.environments.tetris.board import PIECES
from advantage.environments.tetris.features import DELLACHERIE, FEATURES, THIERY
from advantage.environments.tetris.gymnasium_env import CELL, COLOURS, EMPTY, PANEL, TetrisEnv
from advantage.environments.tetris.world import Tetris, TetrisState, draw_piece
from advantage.policies.deterministic import first_of_highest

BERTSEKAS = (*[-0.5] * 4, *[-1.0] * 3, -1.0, -8.0, 0.0)  # on width 4, good enough to play for a while
KEY = jax.random.key(0)
O, I, S, Z, T, J, L = range(7)


def pack(board):
    """Rows of cells, the top one first, as columns of bits."""
    rows = np.arange(len(board) - 1, -1, -1)[:, None]
    return (np.asarray(board, np.int64) << rows).sum(axis=0).astype(np.uint32)


def drawn(*rows, height=None):
    board = np.array([[cell == "#" for cell in row] for row in rows])
    return np.pad(board, ((0 if height is None else height - len(rows), 0), (0, 0)))


def unpack(columns, height):
    return (columns[..., None, :] >> np.arange(height - 1, -1, -1, dtype=np.uint32)[:, None] & 1).astype(bool)


def random_boards(width, height, count, rng):
    """Of every fill, from empty to full to the top, with no full row."""
    tops = rng.choice([0.3, 0.8, 1.0], (count, 1, 1)) * height - rng.integers(0, 3, (count, 1, width))
    below = np.arange(height, 0, -1)[:, None] <= tops
    boards = below & (rng.random((count, height, width)) < rng.uniform(0.4, 1.0, (count, 1, 1)))
    full = boards.all(axis=2)
    boards[full, rng.integers(width, size=full.sum())] = False
    return boards


@functools.cache
def observe(world):
    return jax.jit(jax.vmap(world.observe))


@functools.cache
def place(world):
    return jax.jit(jax.vmap(world.place))


def place_one(world, board, piece, action):
    """`-> board, reward, terminated`."""
    state = TetrisState(pack(board)[None], np.array([piece], np.int32))
    state, reward, over = jax.device_get(place(world)(state, np.array([action]), np.array([O], np.int32)))
    return unpack(state.columns[0], world.height), float(reward[0]), bool(over[0])


@pytest.mark.parametrize("width", [4, 6, 10, 32])
def test_the_placements_are_those_of_the_definition(width):
    world = Tetris(width, 12)
    table = world.placements
    counts = [width - 1, *[2 * width - 3] * 3, *[4 * width - 6] * 3]
    assert table.count.tolist() == counts
    assert world.action_space.n == 4 * width - 6 == table.cells.shape[2]
    for piece, count in enumerate(counts):
        options = oracle.options(piece, width)
        assert len(options) == count
        for action in range(table.cells.shape[2]):
            turn, left = options[action % count]
            want = np.pad(turn, ((12 - len(turn), 0), (left, width - left - turn.shape[1])))
            assert np.array_equal(unpack(table.cells[piece, :, action], 12), want)
    assert Tetris().placements.count.tolist() == [9, 17, 17, 17, 34, 34, 34]


@pytest.mark.parametrize(
    ("width", "height", "features"),
    [
        (10, 20, "bertsekas"),
        (10, 20, "thiery"),
        (4, 4, "bertsekas"),
        (4, 4, "thiery"),
        (6, 12, "dellacherie"),
        (5, 28, "thiery"),
    ],
)
def test_everything_seen_equals_the_definition(width, height, features):
    world, rng = Tetris(width, height, features), np.random.default_rng(width + height)
    boards, pieces = random_boards(width, height, 32, rng), rng.integers(7, size=32).astype(np.int32)
    boards[0] = False
    columns = np.array([pack(board) for board in boards])
    obs = jax.device_get(observe(world)(TetrisState(columns, pieces)))
    assert np.array_equal(obs["board"], boards)
    assert np.array_equal(obs["piece"], pieces)
    ends = 0
    for board, piece, seen, allowed in zip(boards, pieces, obs["features"], obs["action_mask"], strict=True):
        want, fits = oracle.after(board, piece, features)
        ends += (~fits).sum()
        assert np.array_equal(allowed[: len(fits)], fits | ~fits.any()) and not allowed[len(fits) :].any()
        assert np.array_equal(seen[: len(fits)], np.broadcast_to(want, (len(fits), seen.shape[1])))
        assert not seen[len(fits) :].any()
    assert ends > 10
    assert all(world.observation_space.contains({k: v[i] for k, v in obs.items()}) for i in range(32))


@functools.cache
def game(width, height, features, weights):
    """Compiled games of 100 moves side by side; a `curious` share of actions is drawn at random."""
    world = Tetris(width, height, features)

    def move(curious, state, key):
        draw, coin, piece, restart = jax.random.split(key, 4)
        action = first_of_highest(world.score_actions(state, jnp.asarray(weights)))
        action = jnp.where(
            jax.random.uniform(coin) < curious, jax.random.randint(draw, (), 0, 4 * width - 6), action
        )
        after, reward, over = world.place(state, action, draw_piece(piece))
        fresh = TetrisState(jnp.zeros(width, jnp.uint32), draw_piece(restart))
        following = jax.tree.map(lambda new, old: jnp.where(over, new, old), fresh, after)
        return following, (state, action, reward, over, after)

    def lane(state, key, curious):
        return jax.lax.scan(partial(move, curious), state, jax.random.split(key, 100))

    return jax.jit(jax.vmap(lane, (0, 0, None)))


def starts(width, pieces=16):
    return TetrisState(jnp.zeros((pieces, width), jnp.uint32), jnp.arange(pieces, dtype=jnp.int32) % 7)


@pytest.mark.parametrize(
    ("width", "height", "features", "weights", "curious"),
    [
        (10, 10, "thiery", THIERY, 0.2),
        (6, 12, "dellacherie", DELLACHERIE, 0.2),
        (4, 4, "bertsekas", BERTSEKAS, 0.05),
    ],
)
def test_games_go_as_the_definition_says(width, height, features, weights, curious):
    play = game(width, height, features, weights)
    moves = jax.device_get(play(starts(width), jax.random.split(KEY, 16), curious)[1])
    state, action, reward, over, after = moves
    boards, then = unpack(state.columns, height), unpack(after.columns, height)
    for place in np.ndindex(action.shape):
        options = oracle.options(int(state.piece[place]), width)
        outcome = oracle.drop(boards[place], *options[action[place] % len(options)])
        assert (outcome.board is None) == over[place]
        assert outcome.lines == reward[place]
        want = boards[place] if outcome.board is None else outcome.board
        assert np.array_equal(then[place], want)
    assert (over.sum() >= 3) and (reward > 0).sum() >= 3


def test_published_weights_are_those_of_the_sources():
    assert DELLACHERIE == (-1, 1, -1, -1, -4, -1)
    assert THIERY == (-12.63, 6.60, -9.22, -19.77, -13.08, -10.49, -1.61, -24.04)


def test_published_weights_play_well():
    """16 games of 1,000 pieces, of which 2.5 make a row of ten cells."""
    play, state, removed, ended = game(10, 10, "thiery", THIERY), starts(10), 0.0, 0
    for key in jax.random.split(jax.random.key(1), 10):
        state, (_, _, reward, over, _) = play(state, jax.random.split(key, 16), 0.0)
        removed, ended = removed + float(reward.sum()), ended + int(over.sum())
    assert removed / 16_000 > 0.39
    assert ended <= 20


def test_weights_times_features_are_the_values_and_the_first_of_the_best_is_chosen():
    world = Tetris(4, 4, "thiery")
    state = TetrisState(pack(drawn("#...", "##.#", height=4)), np.int32(J))
    obs = jax.device_get(observe(world)(jax.tree.map(lambda leaf: leaf[None], state)))
    features, possible = obs["features"][0], obs["action_mask"][0]
    values = jax.jit(world.score_actions)(state, jnp.asarray(THIERY))
    assert 0 < possible.sum() < 10
    assert np.isinf(values).tolist() == (possible == 0).tolist()
    np.testing.assert_allclose(values[possible == 1], (features @ np.array(THIERY))[possible == 1], rtol=1e-5)
    assert first_of_highest(jnp.array([1.0, 3.0, -jnp.inf, 3.0])) == 1
    assert first_of_highest(jnp.full(5, -jnp.inf)) == 0
    assert first_of_highest(jnp.array([1.0, jnp.nan, 2.0])) < 3


def test_four_rows_vanish_at_once_and_what_is_above_comes_down():
    board = drawn("......##..", "#########.", "#########.", "#########.", "#########.", height=20)
    action = 7 + 9  # upright, in the last column
    after, reward, over = place_one(Tetris(), board, I, action)
    assert (reward, over) == (4.0, False)
    assert np.array_equal(after, drawn("......##..", height=20))


def test_rows_that_are_not_neighbours_vanish():
    board = drawn(".#########", "..########", ".#########", height=10)
    after, reward, over = place_one(Tetris(10, 10), board, I, 7)
    assert (reward, over) == (2.0, False)
    assert np.array_equal(after, drawn("#.........", "#.########", height=10))


def test_a_piece_that_reaches_above_the_top_ends_the_game_without_a_row():
    board = drawn(*[".#########"] * 8, height=10)
    board[2] = False
    board[2, :5] = True
    for piece, action, want in ((I, 0, 0.0), (O, 3, 0.0)):  # on row 7: one high fits, two high fits too
        assert place_one(Tetris(10, 10), board, piece, action)[1:] == (want, False)
    after, reward, over = place_one(Tetris(10, 10), board, I, 7)  # upright on row 8 of 10
    assert (reward, over) == (0.0, True)
    assert np.array_equal(after, board)
    hollow = drawn(*[".#########"] * 8, height=8)
    after, reward, over = place_one(Tetris(10, 8), hollow[:, ::-1], J, 0)
    assert (reward, over) == (0.0, True)  # it would fill nothing, and stands above the top
    almost = drawn("..########", *["#.########"] * 7)
    assert place_one(Tetris(10, 8), almost, O, 0)[1:] == (0.0, True)  # its lower row would be full


def test_where_nothing_is_possible_every_action_ends_the_game():
    world = Tetris(4, 4)
    board = drawn(*[".###", "#.##"] * 2)
    seen = observe(world)(TetrisState(pack(board)[None], np.array([S], np.int32)))
    assert np.array_equal(seen["action_mask"][0], world.exists(S)) and not seen["features"].any()
    assert world.exists(S).sum() == 5
    for action in (0, 4, 5, 9):
        after, reward, over = place_one(world, board, S, action)
        assert (reward, over) == (0.0, True) and np.array_equal(after, board)


def test_a_list_that_is_shorter_begins_again():
    board = drawn("#.##......", height=10)
    for piece, count in enumerate(Tetris().placements.count):
        for action in range(count, 34):
            again = place_one(Tetris(10, 10), board, piece, action)
            first = place_one(Tetris(10, 10), board, piece, action % count)
            assert np.array_equal(again[0], first[0]) and again[1:] == first[1:]


def test_pieces_are_equally_likely_and_independent():
    keys = jax.random.split(jax.random.key(3), 7 * 4000)
    pieces = np.asarray(jax.jit(jax.vmap(draw_piece))(keys))
    table = np.histogram2d(pieces[:-1], pieces[1:], bins=7)[0]
    assert pieces.min() == 0 and pieces.max() == 6
    assert ((np.bincount(pieces) - 4000) ** 2 / 4000).sum() < 22.5  # chi-square of 6, one in a thousand
    assert ((table - 4000 / 7) ** 2 / (4000 / 7)).sum() < 92  # of 48 or less


def test_a_step_draws_from_its_key_and_a_start_from_its_own():
    world = Tetris(4, 4)
    step = jax.jit(jax.vmap(world.step, (None, None, 0)))
    keys = jax.random.split(KEY, 64)
    state = jax.jit(jax.vmap(world.reset))(keys)[0]
    assert not state.columns.any() and len(np.unique(state.piece)) == 7
    first = jax.tree.map(lambda leaf: leaf[0], state)
    after, obs, reward, over = step(first, 0, keys)
    assert np.array_equal(after.piece, state.piece) and np.array_equal(after.piece, obs["piece"])
    board, reward_placed, over_placed = place_one(world, np.zeros((4, 4), bool), first.piece, 0)
    assert reward[5] == reward_placed and over[5] == over_placed
    assert np.array_equal(obs["board"][5], board) and np.array_equal(
        unpack(np.asarray(after.columns[5]), 4), board
    )


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("features", FEATURES)
def test_types_are_strong_and_small(features, x64):
    world = Tetris(5, 6, features)
    n, k = world.observation_space["features"].shape
    kinds = {
        "action_mask": ((n,), jnp.int8),
        "board": ((6, 5), jnp.int8),
        "features": ((n, k), jnp.float32),
        "piece": ((), jnp.int32),
    }

    def facts(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)

    with jax.enable_x64(x64):
        start, obs = jax.eval_shape(world.reset, KEY)
        for dtype in (jnp.int32, jnp.uint8):
            state, seen, reward, over = jax.eval_shape(
                world.step, start, jax.ShapeDtypeStruct((), dtype), KEY
            )
            assert facts(seen) == facts(obs) == {name: (*kind, False) for name, kind in kinds.items()}
            assert facts(state) == facts(start) == (((5,), jnp.uint32, False), ((), jnp.int32, False))
            assert facts((reward, over)) == (((), jnp.float32, False), ((), jnp.bool_, False))


def test_keys_are_used_once():
    world = Tetris(4, 4)

    def two_steps(key):
        reset, step = jax.random.split(key)
        return world.step(world.reset(reset)[0], jnp.int32(0), step)

    with jax.debug_key_reuse(True):
        jax.block_until_ready(jax.jit(two_steps)(jax.random.key(0)))


def test_names():
    assert make("jax/Tetris-10x20") == Tetris() == make("jax/Tetris-10x20-bertsekas")
    assert make("jax/Tetris-6x12-thiery") == Tetris(6, 12, "thiery")
    assert hash(make("jax/Tetris-10x10")) == hash(Tetris(10, 10))
    assert Tetris().gymnasium_id == "advantage/Tetris-10x20-v0"
    assert Tetris(6, 12, "thiery").gymnasium_id == "advantage/Tetris-6x12-thiery-v0"
    assert Tetris().max_episode_steps == np.iinfo(np.int32).max
    shown = [name for name in environment_names() if "Tetris" in name]
    assert shown[:4] == [
        "jax/Tetris-10x10", "jax/Tetris-10x20", "advantage/Tetris-10x10-v0", "advantage/Tetris-10x20-v0"
    ]  # fmt: skip
    world = Tetris(7, 9, "dellacherie")
    assert make(world.gymnasium_id).unwrapped.world == world
    assert make("advantage/Tetris-7x9-bertsekas-v0").unwrapped.world == Tetris(7, 9)
    spaces = world.observation_space, world.action_space
    assert tuple(space_from_json(space_to_json(space)) for space in spaces) == spaces


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jax/Tetris-3x20", "width=3 is not possible; use 4 to 32"),
        ("jax/Tetris-33x20", "width=33 is not possible; use 4 to 32"),
        ("jax/Tetris-10x3", "height=3 is not possible; use 4 to 28"),
        ("jax/Tetris-10x29", "height=29 is not possible; use 4 to 28"),
        ("advantage/Tetris-10x29-v0", "height=29 is not possible; use 4 to 28"),
        ("jax/Tetris-10x20-fahey", "no features 'fahey'; use one of bertsekas, dellacherie, thiery"),
        ("jax/Tetris", "nearest are jax/Tetris-10x20, jax/Tetris-10x10"),
        ("advantage/Tetris-10x20", "nearest are advantage/Tetris-10x20-v0"),
    ],
)
def test_what_is_not_possible_is_refused_with_what_is(name, message):
    with pytest.raises(ValueError, match=message):
        make(name)


def test_sizes_are_whole_numbers():
    with pytest.raises(ValueError, match=r"width=10\.5 is not possible"):
        Tetris(10.5)  # pyright: ignore[reportArgumentType]


def test_the_twin_in_gymnasium_is_sound_and_its_seed_decides():
    source = resolve("advantage/Tetris-4x6-v0").source
    assert not check_environment(source, steps=60, seed=0)
    first, second = source(), source()

    def play(env, seed):
        played = [env.reset(seed=seed)[0]]
        for action in range(25):
            obs, _, over, _, _ = env.step(action % 10)
            played.append(env.reset()[0] if over else obs)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *played)

    one, same, other = play(first, 5), play(second, 5), play(first, 6)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["piece"], other["piece"])
    assert len(np.unique(one["piece"])) >= 5


def test_the_twin_steps_the_same_world():
    world, env, rng = Tetris(4, 6), TetrisEnv(4, 6, render_mode="ansi"), np.random.default_rng(1)
    obs, info = env.reset(seed=0)
    lines, ends = 0, 0
    for _ in range(80):
        board, piece, action = obs["board"].astype(bool), int(obs["piece"]), int(rng.integers(10))
        options = oracle.options(piece, 4)
        outcome = oracle.drop(board, *options[action % len(options)])
        obs, reward, over, truncated, info = env.step(action)
        lines += outcome.lines
        assert (reward, over, truncated) == (outcome.lines, outcome.board is None, False)
        assert info["lines"] == env.lines == lines
        assert np.array_equal(obs["board"], board if over else outcome.board)
        assert np.array_equal(env.pieces[::-1] > 0, obs["board"])
        assert world.observation_space.contains(obs)
        if over:
            ends += 1
            obs, info = env.reset()
            lines = info["lines"]
            assert lines == 0 and not obs["board"].any() and not env.pieces.any()
    assert ends >= 3


def picture(mode):
    env = TetrisEnv(4, 6, render_mode=mode)
    env.reset(seed=0)
    moves = [(O, 0), (S, 0), (L, 9)]  # L upright on the right
    for piece, action in moves:
        env.state = env.state._replace(piece=np.int32(piece))
        env.step(action)
    env.state = env.state._replace(piece=np.int32(T))
    return env


def test_the_terminals_picture():
    env = picture("ansi")
    shown = env.render().split("\n")
    board = unpack(np.asarray(env.state.columns), 6)
    assert [[cell != "." for cell in row[1:-1]] for row in shown[:6]] == board.tolist()
    letters = "".join(shown[:6])
    assert letters.count("L") == 4 and letters.count("o") == 4 and letters.count("s") == 4
    assert shown[6:] == ["+----+", "next T, lines 0"]
    for piece, action in ((O, 0), (I, 0)):
        env.state = env.state._replace(piece=np.int32(piece))
        env.step(action)
    assert env.render().split("\n")[-1].endswith(f"lines {env.lines}")


def test_the_image():
    env = picture("rgb_array")
    image = env.render()
    assert image.shape == (8 * CELL, (4 + 2 + PANEL) * CELL, 3) and image.dtype == np.uint8
    centres = image[CELL + CELL // 2 :: CELL, CELL + CELL // 2 :: CELL][:6, :4]
    board = unpack(np.asarray(env.state.columns), 6)
    assert np.array_equal((centres != EMPTY).any(axis=2), board)
    bright = (centres == COLOURS[L + 1]).all(axis=2)
    assert np.array_equal(bright, env.last[::-1]) and bright.sum() == 4
    assert (centres[(env.pieces == O + 1)[::-1]] == (COLOURS[O + 1] * 0.55).astype(np.uint8)).all()
    panel = image[:, (4 + 2) * CELL :]
    assert (panel == COLOURS[T + 1]).all(axis=2).sum() > 4 * (CELL - 2) ** 2
    before = panel[4 * CELL :].copy()
    env.lines = 1234567
    after = env.render()[:, (4 + 2) * CELL :][4 * CELL :]
    assert (before != after).any() and after.shape == before.shape
    assert TetrisEnv(4, 6).render() is None


@pytest.mark.slow
def test_an_agent_is_trained_on_it_and_can_be_watched(tmp_path):
    from advantage.cli import main

    run = tmp_path / "run"
    train = ["train", "ppo", "jax/Tetris-10x20", "--total-timesteps", "2048", "--out", str(run), "--quiet"]
    assert main(train) == 0
    assert main(["enjoy", str(run), "--video", str(tmp_path / "play.gif"), "--episodes", "1"]) == 0
    assert (tmp_path / "play.gif").stat().st_size > 1000


def test_every_piece_has_a_colour_and_a_drawing():
    assert len(PIECES) == len(oracle.DRAWN) == len(COLOURS) - 1
    assert isinstance(TetrisEnv().observation_space, gymnasium.spaces.Dict)
