"""Mistakes in solved games and the cost of decisions: by a loop, with agents whose moves are known, and in `eval`."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

import advantage as adv
from advantage import theory
from advantage.cli import main
from advantage.decisions import MOST_POSITIONS, decision_cost, game_of, mistakes
from advantage.environments.make import resolve
from advantage.environments.worlds.line_game import LineGame

SOLVED = theory.solve_game(LineGame())


@dataclasses.dataclass
class Player:
    """Plays by a rule `(own stones and the other's [N, 2, rows, columns], mask [N, A]) -> actions`."""

    rule: object

    @property
    def actor(self):
        return SimpleNamespace(
            initial_memory=lambda number: np.zeros(number),
            greedy=lambda obs, memory: (self.rule(obs["observation"], obs["action_mask"]), memory),
        )


def first_free(stones, mask):
    return mask.argmax(1)


def best_or_worst(sign, solved=SOLVED):
    def rule(stones, mask):
        boards = stones[:, 0].astype(np.int8) - stones[:, 1]
        values = solved.action_values(boards)
        return np.where(mask == 1, sign * values, -np.inf).argmax(1)

    return rule


def test_mistakes_of_players_whose_moves_are_known():
    best = mistakes(Player(best_or_worst(1)), SOLVED)
    worst = mistakes(Player(best_or_worst(-1)), SOLVED)
    assert best == (0, 3191, 3191)
    assert worst == (3191, 3191, 3191)
    assert "mistakes: 0.00%" in str(best) and "in all 3,191 positions" in str(best)


def test_no_mistakes_are_counted_where_the_move_never_matters():
    assert mistakes(Player(first_free), theory.solve_game(LineGame(2, 2, 2))) is None


def test_mistakes_by_a_loop():
    """The first free cell, position by position."""
    wrong = judged = 0
    for values in SOLVED.action_values(SOLVED.boards()):
        possible = values[np.isfinite(values)]
        if len(set(possible)) > 1:
            judged += 1
            wrong += possible[0] != possible.max()
    assert mistakes(Player(first_free), SOLVED) == (wrong, judged, judged)
    assert 0 < wrong < judged


def test_of_a_larger_game_as_many_positions_are_drawn():
    solved = theory.solve_game(LineGame(4, 4, 4, falls=True))
    one, again = (mistakes(Player(first_free), solved, seed=3) for _ in range(2))
    assert one == again
    assert (one.judged, one.of) == (MOST_POSITIONS, 55_506)
    assert mistakes(Player(first_free), solved, seed=4).wrong != one.wrong
    assert mistakes(Player(best_or_worst(1, solved)), solved).wrong == 0


def test_which_environments_are_solved():
    assert game_of(resolve("jax/TicTacToePerfect-v0")) == LineGame()
    assert game_of(resolve("jax/ConnectFour5x4-v0")) == LineGame(4, 5, 4, falls=True)
    for name in ("jax/ConnectFour-v0", "jax/CartPole-v1", "CartPole-v1"):
        assert game_of(resolve(name)) is None


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "run"
    algorithm = adv.MCTS(n_steps=4, simulations=6, rollouts=1, rollout_steps=3)
    adv.train(
        algorithm,
        "jax/TicTacToe-v0",
        out=path,
        total_timesteps=4,
        num_envs=1,
        eval_episodes=0,
        tensorboard=False,
    )
    return path


@pytest.mark.slow
def test_eval_reports_mistakes_and_the_cost_of_a_decision(search, capsys):
    assert main(["eval", str(search), "--episodes", "1"]) == 0
    text = capsys.readouterr().out
    assert "positions where the move matters" in text
    assert f"decision: {6 * (1 + 3)} steps of the model, " in text
    assert main(["eval", str(search), "--episodes", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    counted = mistakes(adv.load(search), SOLVED)
    assert (found["mistakes"], found["judged"], found["model_steps"]) == (counted.wrong, 3191, 24)
    assert found["mistake_rate"] == counted.rate == counted.wrong / 3191
    assert found["milliseconds_per_decision"] > 0


def test_who_does_not_plan_has_no_cost():
    world = resolve("jax/CartPole-v1")
    for algorithm in (adv.PPO(), adv.WorldModel()):
        assert decision_cost(SimpleNamespace(algorithm=algorithm, state=None), world) is None


def test_the_cost_of_a_decision_is_that_of_one_in_the_first_state(monkeypatch):
    monkeypatch.setattr("advantage.decisions.SECONDS", 0.05)
    seen = []
    for world in ("jax/CartPole-v1", "CartPole-v1"):
        actor = SimpleNamespace(initial_memory=lambda number: (), greedy=lambda obs, memory: seen.append(obs))
        agent = SimpleNamespace(algorithm=adv.MuZero(simulations=7), state=None, actor=actor)
        cost = decision_cost(agent, resolve(world))
        assert cost.model_steps == 7 and cost.milliseconds > 0
        assert "decision: 7 steps of the model, " in str(cost)
    assert len(seen) > 2 and all(obs.shape == (1, 4) for obs in seen)
