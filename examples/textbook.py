"""The classic experiments with tables, run with this library: figures, and our numbers beside the published ones.

    python examples/textbook.py                      # all experiments, some minutes
    python examples/textbook.py cliff testbed        # some of them
    python examples/textbook.py --quick              # a tenth of the runs

A reference is exact, or the mean of independent runs of the same experiment. Ours passes if the difference is at most
half a unit of the last published digit plus three standard errors of the difference; if a number fails, the exit status
is 1. Examples and figures are those of Sutton & Barto 2018, "Reinforcement learning", 2nd edition.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar

import advantage as adv
from advantage.drivers.device import rollout_on_device, start
from advantage.drivers.draws import draw
from advantage.environments.tables.blackjack import blackjack_state
from advantage.environments.tables.windy_grid import WIND
from advantage.runs.compilation import enable_compilation_cache
from advantage.theory.objectives import finite_horizon_values
from advantage.theory.policy_evaluation import performance, values

# -- published numbers ------------------------------------------------------------------------------------------


class Published(NamedTuple):
    """Published numbers, `half` a unit of their last digit, and the number of `runs` of the mean, None if exact."""

    source: str
    numbers: dict[str, float]
    half: float = 1e-9
    runs: int | None = None


ROOT2 = 2**0.5
# fmt: off
PUBLISHED = {
    "random walk": Published("example 6.2", {f"V({i})": i / 6 for i in range(1, 6)}),
    "RMS error, TD(0), α .1, episode": Published(
        "example 6.2", {"10": 0.129, "25": 0.057, "50": 0.050, "100": 0.057}, 5e-4, 100),
    "RMS error, TD(0), α .05, episode": Published(
        "example 6.2", {"10": 0.175, "25": 0.110, "50": 0.053, "100": 0.035}, 5e-4, 100),
    "RMS error, Monte-Carlo, α .02, episode": Published(
        "example 6.2", {"10": 0.197, "25": 0.156, "50": 0.108, "100": 0.075}, 5e-4, 100),
    "19 states": Published("section 12.2", {"off-line TD(λ) less off-line λ-return": 0.0}, 1e-5),
    "4 x 4 grid, 1 sweep": Published("figure 4.1", {"V(1)": -1.0, "V(2)": -1.0, "V(3)": -1.0}),
    "4 x 4 grid, 2 sweeps": Published("figure 4.1", {"V(1)": -1.75, "V(2)": -2.0, "V(3)": -2.0}),
    "4 x 4 grid, 3 sweeps": Published("figure 4.1", {"V(1)": -2.4375, "V(2)": -2.9375, "V(3)": -3.0}),
    "4 x 4 grid, 10 sweeps": Published("figure 4.1", {"V(1)": -6.138, "V(2)": -8.352, "V(3)": -8.967}, 5e-4),
    "4 x 4 grid, limit": Published("figure 4.1", {
        f"V({s})": -v for s, v in enumerate([0, 14, 20, 22, 14, 18, 20, 20, 20, 20, 18, 14, 22, 20, 14, 0])}),
    "5 x 5 grid, at random": Published(
        "figure 3.2", {"V(0)": 3.309, "V(1)": 8.789, "V(2)": 4.428, "V(3)": 5.322, "V(4)": 1.492}, 5e-4),
    "5 x 5 grid, best": Published(
        "figure 3.5", {"V(0)": 21.977, "V(1)": 24.419, "V(2)": 21.977, "V(3)": 19.419, "V(4)": 17.477}, 5e-4),
    "car rental": Published("example 4.2", {
        "V(0, 0)": 421.414, "V(10, 10)": 574.948, "V(20, 20)": 636.990, "V(20, 0)": 554.948, "V(0, 20)": 567.769},
        5e-4),
    "gambler": Published("example 4.3", {
        "V(1)": 0.00206562, "V(25)": 0.16, "V(50)": 0.4, "V(51)": 0.403098, "V(75)": 0.64, "V(99)": 0.964333}, 5e-7),
    "short corridor": Published(
        "example 13.1", {"best P(right), 2 - √2": 2 - ROOT2, "its value, -6 - 4√2": -6 - 4 * ROOT2}, 1e-6),
    "windy grid": Published("example 6.5", {"shortest path": 15.0, "shortest path of a king": 7.0}),
    "cliff": Published("example 6.6", {"best return": -13.0, "return of the safest path": -17.0}),
    "cliff, episodes 101-500": Published(
        "example 6.6", {"SARSA": -27.6, "Q-learning": -48.8, "Expected SARSA": -21.0}, 0.05, 50),
    "Dyna maze": Published("example 8.1", {"shortest path": 14.0}),
    "Dyna maze, steps, n = 0": Published("figure 8.2", {"episode 2": 574.0, "episode 20": 41.0}, 0.5, 30),
    "Dyna maze, steps, n = 5": Published("figure 8.2", {"episode 2": 160.0, "episode 5": 20.0}, 0.5, 30),
    "Dyna maze, steps, n = 50": Published("figure 8.2", {"episode 2": 38.0, "episode 3": 18.0}, 0.5, 30),
    "testbed, reward of steps 901-1000": Published("figures 2.2 to 2.4", {
        "greedy": 1.04, "ε .01": 1.32, "ε .1": 1.38, "UCB": 1.48, "optimistic": 1.49}, 0.005, 2000),
    "testbed, % best of steps 901-1000": Published("figures 2.2 to 2.4", {
        "greedy": 37.0, "ε .01": 59.0, "ε .1": 80.0, "UCB": 85.0, "optimistic": 86.0}, 0.5, 2000),
    "blackjack": Published("examples 5.1, 5.3", {"best": -0.046556, "stick on 20 and 21": -0.353554}, 5e-7),
    "FrozenLake 4 x 4": Published("exact", {
        "γ .9": 0.068891, "γ .95": 0.180472, "γ .99": 0.542026, "γ 1": 0.823529, "best within 100 steps": 0.744190},
        5e-7),
    "FrozenLake 8 x 8": Published("exact", {"γ .99": 0.414640, "best within 200 steps": 0.913220}, 5e-7),
    "Taxi": Published("exact", {"best": 7.93}, 0.005),
}
# fmt: on


@dataclasses.dataclass
class Book:
    """The folder for figures, the number of runs, and the rows of the table so far."""

    out: Path
    quick: bool = False
    rows: list[tuple[str, ...]] = dataclasses.field(default_factory=list)

    def runs(self, number: int) -> int:
        return max(number // 10, 5) if self.quick else number

    def compare(self, name: str, ours: Sequence[Any]) -> None:
        """Add a row for each number, in the order of `PUBLISHED`; ours is an exact number or an array `[runs]`."""
        published = PUBLISHED[name]
        for (label, reference), one in zip(published.numbers.items(), ours, strict=True):
            one, error, allowed = np.atleast_1d(np.asarray(one, np.float64)), 0.0, published.half
            if published.runs is not None:
                error = one.std(ddof=1) / len(one) ** 0.5
                allowed += 3 * error * (1 + len(one) / published.runs) ** 0.5
            passed = abs(one.mean() - reference) <= allowed
            spread = f"{error:.2g}" if published.runs else "exact"
            verdict = "pass" if passed else "FAIL"
            figures = f"{one.mean():.6g}", f"{reference:.6g}"
            self.rows.append((f"{name}: {label}", *figures, spread, verdict, published.source))

    def save(self, figure: Figure, name: str) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure).print_png(self.out / f"{name}.png")

    @property
    def table(self) -> str:
        """All rows, in columns."""
        rows = [("", "ours", "published", "spread", "", "source"), *self.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
        return "\n".join("  ".join(line).rstrip() for line in lines)


# -- many runs at once ------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """One step of one run, from which quantities are measured.

    Attributes:
        state: the state of the algorithm after it has learned from the step.
        hidden: the state of the environment before the step.
        action: the action of the step.
        reward: the reward of the step.
        total: the sum of the rewards of the current episode, this one included.
        length: the number of steps of the current episode.
    """

    state: Any
    hidden: Any
    action: Any
    reward: Any
    total: Any
    length: Any


def play(
    algorithm: Any,
    world: Any,
    runs: int,
    count: int,
    measure: Callable[[Moment], Any],
    each: Literal["episode", "step"] = "episode",
    state: Any = None,
) -> tuple[Any, Any]:
    """Independent runs in parallel, of `count` episodes or steps: `-> measurements [runs, count, ...], state`.

    A float hyperparameter may be an array `[K]`: then each run is made with each setting, with the same seeds, and
    the measurements are `[K, runs, count, ...]`. With a `state`, learning continues from it.
    """
    settings = jnp.broadcast_shapes(*map(jnp.shape, jax.tree.leaves(algorithm)))
    algorithms = jax.tree.map(lambda x: jnp.repeat(jnp.broadcast_to(x, settings or 1), runs), algorithm)
    seeds = jnp.tile(jnp.arange(runs, dtype=jnp.uint32), settings or 1)
    measured, state = _play(algorithms, seeds, state, world, count, measure, each)
    return jax.tree.map(lambda x: np.asarray(x).reshape(*settings, runs, *x.shape[1:]), measured), state


@partial(jax.jit, static_argnames=("world", "count", "measure", "each"))
def _play(algorithms, seeds, state, world, count, measure, each):
    spec, runs = adv.Spec(world.observation_space, world.action_space), len(seeds)

    @jax.vmap
    def begin(algorithm, seed):
        key_init, key_world, key_run = jax.random.split(jax.random.key(seed), 3)
        return algorithm.init(key_init, spec), start(world, key_world, 1), key_run

    @partial(jax.vmap, in_axes=(None, 0, 0, 0, 0, 0, 0))
    def step(now, algorithm, key, state, worlds, total, length):
        actor, draws = draw(algorithm, state, key, now, (1, 1))
        after, rollout = rollout_on_device(algorithm, world, actor, worlds, draws.noise, draws.key_world)
        state, _ = algorithm.update(state, rollout, draws.key_update)
        hidden, action, reward, done = jax.tree.map(
            jnp.squeeze,
            (worlds.state, rollout.action, rollout.reward, rollout.terminated | rollout.truncated),
        )
        total, length = total + reward, length + 1
        measured = measure(Moment(state, hidden, action, reward, total, length))
        return (state, after, jnp.where(done, 0, total), jnp.where(done, 0, length)), measured, done

    def once(carry):
        now, done_so_far, measured, running = carry
        running, new, done = step(now, algorithms, keys, *running)
        due = done if each == "episode" else jnp.ones_like(done)
        place = jnp.arange(runs), jnp.where(due, done_so_far, count)
        measured = jax.tree.map(lambda all, x: all.at[place].set(x, mode="drop"), measured, new)
        return now + 1, done_so_far + due, measured, running

    fresh, worlds, keys = begin(algorithms, seeds)
    state = fresh if state is None else state
    running = state, worlds, jnp.zeros(runs), jnp.zeros(runs, jnp.int32)
    shapes = jax.eval_shape(step, 0, algorithms, keys, *running)[1]
    measured = jax.tree.map(lambda x: jnp.zeros((runs, count, *x.shape[1:]), x.dtype), shapes)
    carry = state.clock.step[0], jnp.zeros(runs, jnp.int32), measured, running
    _, _, measured, (state, *_) = jax.lax.while_loop(lambda carry: (carry[1] < count).any(), once, carry)
    return measured, state


def the_values(moment: Moment) -> Any:
    return moment.state.table.v


def the_total(moment: Moment) -> Any:
    return moment.total


def the_length(moment: Moment) -> Any:
    return moment.length


def the_reward(moment: Moment) -> Any:
    return moment.reward


# -- figures ----------------------------------------------------------------------------------------------------

INK, GREY, LINE = "#24292f", "#6e7781", "#d0d7de"
COLOURS = (
    "#1f6feb",
    "#d1570a",
    "#1a7f37",
    "#8250df",
    "#bf3989",
    "#9a6700",
    "#0a7ea4",
    "#57606a",
    "#cf222e",
    INK,
)


def canvas(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Any]]:
    """`-> figure, its axes in a row`."""
    figure = Figure(figsize=(width, height), dpi=90, facecolor="white", layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def styled(axes: Any, title: str, x: str, y: str, legend: str | None = "best", **limits: Any) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.set_xlabel(x, fontsize=10, color=GREY)
    axes.set_ylabel(y, fontsize=10, color=GREY)
    axes.tick_params(labelsize=9, labelcolor=GREY, color=LINE)
    axes.grid(True, color="#eaeef2", linewidth=1)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.set(**limits)
    if legend:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc=legend)


def draw_grid(
    axes: Any, mdp: adv.MDP, title: str, value: np.ndarray, best: np.ndarray | None = None, form: str = ".1f"
) -> None:
    """The value of each state as colour and number, and, with `best` bool [S, A], arrows for the best actions."""
    grid = mdp.grid
    assert grid is not None
    shown = np.array(value, float)
    shown[list(grid.walls)] = np.nan
    low, high = np.nanmin(shown), np.nanmax(shown)
    axes.imshow(shown.reshape(grid.rows, grid.columns), cmap="YlGnBu", vmin=low, vmax=high)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(LINE)
    for state in np.flatnonzero(~np.isnan(shown)):
        row, column = divmod(int(state), grid.columns)
        ink = "white" if shown[state] > low + 0.6 * (high - low) and high > low else INK
        below = 0.33 if best is not None else 0
        axes.text(
            column,
            row + below,
            format(shown[state], f"z{form}"),
            ha="center",
            va="center",
            color=ink,
            fontsize=8,
        )
        if best is None or mdp.terminal[state]:
            continue
        for down, right in {grid.moves[action] for action in np.flatnonzero(best[state])}:
            length = 0.27 / np.hypot(down, right)
            ends = column + right * length, row - 0.12 + down * length
            style = {
                "arrowstyle": "-|>",
                "color": ink,
                "lw": 1.1,
                "shrinkA": 0,
                "shrinkB": 0,
                "mutation_scale": 8,
            }
            axes.annotate("", ends, (column, row - 0.12), arrowprops=style)
    for state in grid.walls:
        row, column = divmod(state, grid.columns)
        axes.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, color="#57606a", linewidth=0)


def greedy(action_value: np.ndarray) -> np.ndarray:
    """All best actions, up to rounding errors, bool `[S, A]`."""
    return action_value >= action_value.max(-1, keepdims=True) - 1e-6


# -- the experiments --------------------------------------------------------------------------------------------


def random_walk(book: Book) -> None:
    """Example 6.2: TD(0) against Monte-Carlo on five states in a row."""
    world, runs = adv.make("jax/RandomWalk-v0"), book.runs(500)
    truth = values(world.mdp, np.zeros(7, int))[1:6]
    book.compare("random walk", list(truth))

    def learn(algorithm, rates):
        algorithm = dataclasses.replace(
            algorithm, learning_rate=jnp.array(rates), gamma=1.0, initial_value=0.5
        )
        v = play(algorithm, world, runs, 100, the_values)[0][..., 1:6]
        error = np.sqrt(((v - truth) ** 2).mean(-1))
        before = np.full((*error.shape[:2], 1), ((truth - 0.5) ** 2).mean() ** 0.5)
        return v, np.concatenate([before, error], 2)

    td_rates, mc_rates = (0.05, 0.1, 0.15), (0.01, 0.02, 0.03, 0.04)
    monte_carlo = adv.MonteCarloPrediction(
        learning_rate_power=None, visits="every", n_steps=1, max_episode=256
    )
    v, td = learn(adv.TD(), td_rates)
    _, mc = learn(monte_carlo, mc_rates)
    at = [10, 25, 50, 100]
    book.compare("RMS error, TD(0), α .1, episode", list(td[1][:, at].T))
    book.compare("RMS error, TD(0), α .05, episode", list(td[0][:, at].T))
    book.compare("RMS error, Monte-Carlo, α .02, episode", list(mc[1][:, at].T))

    figure, (left, right) = canvas(11, 4.2, 1, 2)
    left.plot(range(5), truth, color=INK, linewidth=1.5, label="true values")
    for episodes, colour in zip((1, 10, 100), COLOURS, strict=False):
        left.plot(
            range(5), v[1, 0, episodes - 1], "o-", color=colour, markersize=4, label=f"episode {episodes}"
        )
    left.set_xticks(range(5), "ABCDE")
    styled(left, "Estimates of one run, TD(0), α = 0.1", "state", "value", ylim=(0, 1))
    for curve, rate, shade in zip(td, td_rates, (0.5, 0.75, 1.0), strict=True):
        right.plot(curve.mean(0), color=COLOURS[0], alpha=shade, label=f"TD(0), α = {rate}")
    for curve, rate, shade in zip(mc, mc_rates, (0.4, 0.6, 0.8, 1.0), strict=True):
        right.plot(
            curve.mean(0), color=COLOURS[1], alpha=shade, linestyle="--", label=f"Monte-Carlo, α = {rate}"
        )
    title = f"Error, mean of {runs} runs"
    styled(right, title, "episodes", "RMS error over states", legend=None, ylim=(0, 0.25))
    right.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=2, loc="upper right")
    book.save(figure, "random_walk")


RATES = np.array([0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])


def random_walk_19(book: Book) -> None:
    """Figures 7.2, 12.6 and 12.8, and off-line λ-returns: n-step TD and TD(λ) on nineteen states in a row.

    In Figure 12.3, V changes from step to step of an off-line update; here all errors are computed from the same V.
    """
    world, runs = adv.make("jax/RandomWalk19-v0"), book.runs(100)
    truth = values(world.mdp, np.zeros(21, int))[1:20]

    def error(algorithm, rates, runs=runs):
        algorithm = dataclasses.replace(algorithm, learning_rate=jnp.asarray(rates), gamma=1.0)
        v = play(algorithm, world, runs, 10, the_values)[0][..., 1:20]
        with np.errstate(over="ignore", invalid="ignore"):  # some settings diverge
            return np.sqrt(((v - truth) ** 2).mean(-1)).mean(2)

    backward = error(adv.TDLambda(lam=0.8, online=False), [0.1, 0.2], 10)
    forward = error(adv.OfflineLambdaReturn(lam=0.8, n_steps=1, max_episode=1500), [0.1, 0.2], 10)
    book.compare("19 states", [np.abs(backward - forward).max()])

    figure, panels = canvas(11, 8.4, 2, 2)
    for n, colour in zip((1, 2, 4, 8, 16, 32, 64), COLOURS, strict=False):
        rates = RATES if n < 32 else RATES / 2  # larger step sizes are outside the figure
        panels[0].plot(rates, error(adv.TD(n=n), rates).mean(1), color=colour, label=f"n = {n}")
    kinds = {
        "Off-line λ-return, errors summed": {"online": False},
        "TD(λ), accumulating traces": {"trace": "accumulating"},
        "True online TD(λ)": {"trace": "dutch"},
    }
    for axes, (title, kind) in zip(panels[1:], kinds.items(), strict=True):
        for lam, colour in zip((0.0, 0.4, 0.8, 0.9, 0.95, 0.975, 0.99, 1.0), COLOURS, strict=False):
            rates = RATES if "trace" in kind else 0.4 * RATES
            curve = error(adv.TDLambda(lam=lam, **kind), rates).mean(1)
            axes.plot(rates, curve, color=colour, label=f"λ = {lam:g}")
        styled(axes, title, "step size α", "RMS error", ylim=(0.2, 0.6))
    styled(panels[0], "n-step TD", "step size α", "RMS error", ylim=(0.2, 0.6))
    for axes in panels:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(f"19-state walk: RMS error over states and the first 10 episodes, {runs} runs", color=INK)
    book.save(figure, "random_walk_19")


def grids(book: Book) -> None:
    """Figures 4.1, 3.2 and 3.5: the values of the random and of the best policy on two small grids."""
    small, large = adv.make("jax/GridWorld4x4-v0").mdp, adv.make("jax/GridWorld5x5-v0").mdp
    chance = np.full((16, 4), 1 / 4)
    swept = {k: finite_horizon_values(small, chance, k)[0] for k in (1, 2, 3, 10)}
    limit = values(small, chance)
    for k, value in swept.items():
        book.compare(f"4 x 4 grid, {k} sweep{'s' * (k > 1)}", list(value[1:4]))
    book.compare("4 x 4 grid, limit", list(limit))
    random, best = values(large, np.full((25, 4), 1 / 4)), adv.solve(large)
    book.compare("5 x 5 grid, at random", list(random[:5]))
    book.compare("5 x 5 grid, best", list(best.value[:5]))

    figure, panels = canvas(13, 3.5, 1, 4)
    named = {"k = 1": swept[1], "k = 3": swept[3], "k = 10": swept[10], "limit": limit}
    for axes, (name, value) in zip(panels, named.items(), strict=True):
        draw_grid(axes, small, name, value, greedy(small.expected_reward + small.expected(value)))
    figure.suptitle(
        "4 x 4 grid: sweeps of policy evaluation, all actions equally likely, and greedy actions", color=INK
    )
    book.save(figure, "grid_4x4")

    figure, (left, right) = canvas(8.4, 4.4, 1, 2)
    draw_grid(left, large, "All actions equally likely", random)
    draw_grid(right, large, "Best policies", best.value, greedy(best.action_value))
    figure.suptitle("5 x 5 grid, γ = 0.9: values", color=INK)
    book.save(figure, "grid_5x5")


FIVES = range(0, 21, 5)


def car_rental(book: Book) -> None:
    """Figure 4.2: policy iteration for Jack's car rental."""
    mdp, solver = adv.make("jax/CarRental-v0").mdp, adv.PolicyIteration()
    size, plan, policies = 21, solver.start(mdp), []
    first, second = np.divmod(np.arange(size * size), size)
    while not plan.converged:
        policies.append(np.clip(plan.policy - 5, -second, first).reshape(size, size))
        plan = solver.improve(mdp, plan)
    value = plan.value.reshape(size, size)
    places = [(0, 0), (10, 10), (20, 20), (20, 0), (0, 20)]
    book.compare("car rental", [value[place] for place in places])

    figure, panels = canvas(3.4 * len(policies) + 3, 3.7, 1, len(policies) + 1)
    *pictures, last = panels
    colours = matplotlib.colormaps["RdBu"].resampled(11)
    for k, (axes, policy) in enumerate(zip(pictures, policies, strict=True)):
        image = axes.imshow(policy, origin="lower", cmap=colours, vmin=-5.5, vmax=5.5)
        title = f"policy {k}" + ", best for a day" * (k == 0)
        styled(axes, title, "cars at the second", "cars at the first", None, xticks=FIVES, yticks=FIVES)
        axes.grid(False)
    figure.colorbar(image, ax=pictures, label="cars moved", ticks=range(-5, 6), pad=0.01)
    last.clabel(last.contour(value, levels=np.arange(420, 640, 20), cmap="viridis"), fontsize=8)
    styled(last, "value", "cars at the second", "cars at the first", None, xticks=FIVES, yticks=FIVES)
    last.set_aspect("equal")
    figure.suptitle(
        "Jack's car rental: cars moved overnight from the first to the second location", color=INK
    )
    book.save(figure, "car_rental")


def gambler(book: Book) -> None:
    """Figure 4.3: value iteration for the gambler's problem."""
    mdp, solver = adv.make("jax/Gambler-v0").mdp, adv.ValueIteration(tolerance=1e-9)
    plan, sweeps = solver.start(mdp), []
    while not plan.converged:
        plan = solver.improve(mdp, plan)
        sweeps.append(plan.extra["iterate"])
    book.compare("gambler", list(plan.value[[1, 25, 50, 51, 75, 99]]))

    figure, (left, right) = canvas(11, 4.2, 1, 2)
    for k, colour in zip((1, 2, 3, len(sweeps)), COLOURS, strict=False):
        left.plot(range(1, 100), sweeps[k - 1][1:100], color=colour, label=f"sweep {k}")
    styled(left, "Value iteration, P(heads) = 0.4", "capital", "probability to reach 100", ylim=(0, 1))
    action_value = solver.action_value(mdp, plan)
    best = action_value >= action_value.max(-1, keepdims=True) - 1e-8
    capital, stake = np.argwhere(best[1:100]).T + 1
    possible = stake <= np.minimum(capital, 100 - capital)
    right.plot(capital[possible], stake[possible], ".", color=COLOURS[0], alpha=0.35, label="as good")
    smallest = best[1:100].argmax(1) + 1
    right.step(
        range(1, 100), smallest, where="mid", color=COLOURS[0], linewidth=1.3, label="smallest best stake"
    )
    styled(right, "Best stakes", "capital", "stake", "upper left", ylim=(0, 52))
    book.save(figure, "gambler")


def blackjack(book: Book) -> None:
    """Figures 5.1 and 5.2: the best policy of blackjack, and its value, exactly."""
    mdp = adv.make("jax/Blackjack-v0").mdp
    best = adv.solve(mdp, adv.PolicyIteration())
    sticks = np.ones(mdp.n_states, int)
    for total in (20, 21):
        sticks[
            [blackjack_state(total, dealer, usable) for dealer in range(1, 11) for usable in (False, True)]
        ] = 0
    book.compare("blackjack", [mdp.start @ best.value, performance(mdp, sticks)])

    figure, panels = canvas(10, 8.4, 2, 2)
    for row, usable in enumerate((True, False)):
        states = [
            [blackjack_state(total, dealer, usable) for dealer in range(1, 11)] for total in range(12, 22)
        ]
        where = "with" if usable else "without"
        extent = {"origin": "lower", "extent": (0.5, 10.5, 11.5, 21.5), "aspect": "auto"}
        hit = ListedColormap(["#eaeef2", "#9ec5f8"])
        panels[2 * row].imshow(best.policy[states], cmap=hit, vmin=0, vmax=1, **extent)
        image = panels[2 * row + 1].imshow(best.value[states], cmap="RdBu", vmin=-1, vmax=1, **extent)
        for (total, dealer), state in np.ndenumerate(states):
            worth = best.value[state]
            ink = "white" if abs(worth) > 0.6 else INK
            place = dealer + 1, total + 12
            panels[2 * row + 1].text(*place, f"{worth:z.2f}", ha="center", va="center", color=ink, fontsize=7)
        for word, height in (("stick", 19.5), ("hit", 13)):
            panels[2 * row].text(
                8.5 if word == "hit" else 4, height, word, ha="center", color=INK, fontsize=12
            )
        for axes, title in zip(panels[2 * row :], ("Best action", "Its value"), strict=False):
            axes.set_xticks(range(1, 11), ["A", *map(str, range(2, 11))])
            axes.set_yticks(range(12, 22))
            styled(axes, f"{title}, {where} a usable ace", "dealer shows", "sum of the player", legend=None)
            axes.grid(False)
    figure.colorbar(image, ax=panels[1::2], label="expected return", shrink=0.6)
    book.save(figure, "blackjack")


def short_corridor(book: Book) -> None:
    """Example 13.1: if all cells look the same, the best policy is stochastic."""
    mdp = adv.make("jax/ShortCorridor-v0").pomdp.mdp

    def value(right):
        return performance(mdp, np.tile([1 - right, right], (4, 1)))

    found: Any = minimize_scalar(
        lambda p: -value(p), bounds=(0.05, 0.95), method="bounded", options={"xatol": 1e-9}
    )
    book.compare("short corridor", [found.x, -found.fun])
    figure, (axes,) = canvas(5.6, 3.8)
    chance = np.linspace(0.03, 0.97, 95)
    axes.plot(chance, [value(p) for p in chance], color=COLOURS[0])
    axes.plot(found.x, -found.fun, "o", color=COLOURS[1], label=f"best: {-found.fun:.2f} at {found.x:.3f}")
    for p, side in ((0.05, "left"), (0.95, "right")):
        axes.plot(p, value(p), "o", color=GREY)
        axes.annotate(
            f"{value(p):.1f}, ε-greedy {side}",
            (p, value(p)),
            (0.2 if p < 0.5 else 0.5, value(p) - 4),
            color=GREY,
        )
    styled(axes, "Short corridor", "probability to go right", "value of the start", ylim=(-100, 0))
    book.save(figure, "short_corridor")


def greedy_path(mdp: adv.MDP, q: np.ndarray) -> list[int]:
    """The states on the path of the best actions in a deterministic world, at most 100."""
    path, successor = [int(mdp.start.argmax())], mdp.rows(q.argmax(1)).argmax(1)
    while not mdp.terminal[path[-1]] and len(path) < 100:
        path.append(int(successor[path[-1]]))
    return path


def windy_grid(book: Book) -> None:
    """Example 6.5: SARSA across the wind."""
    world, king = adv.make("jax/WindyGrid-v0"), adv.make("jax/WindyGridKing-v0").mdp
    mdp, runs, steps = world.mdp, book.runs(100), 8000
    lengths = [-(one.start @ adv.solve(one, adv.PolicyIteration()).value) for one in (mdp, king)]
    book.compare("windy grid", lengths)

    algorithm = adv.Sarsa(learning_rate=0.5, epsilon=0.1, gamma=1.0)
    length, state = play(algorithm, world, runs, steps, the_length, "step")
    episodes = (length[:, 1:] == 1).cumsum(1)  # the number of episodes that began
    figure, (left, right) = canvas(12, 4.2, 1, 2)
    left.plot(episodes[0], color=COLOURS[0], alpha=0.5, label="one run")
    left.plot(episodes.mean(0), color=COLOURS[0], label=f"mean of {runs} runs")
    styled(left, "SARSA, α = 0.5, ε = 0.1", "steps", "episodes")
    follow = [greedy_path(mdp, q) for q in np.asarray(state.table.q)]
    shortest = min(range(runs), key=lambda run: len(follow[run]))
    path, value = follow[shortest], state.table.q[shortest].max(1)
    shares = f"{100 * np.mean([len(one) == len(path) for one in follow]):.0f} % of runs"
    draw_grid(
        right,
        mdp,
        f"{len(path) - 1} steps: the greedy path of {shares}",
        value,
        np.zeros((70, 4), bool),
        ".0f",
    )
    rows, columns = np.divmod(path, 10)
    right.plot(columns, rows, ".-", color=COLOURS[1], linewidth=2, markersize=7)
    for name, place in (("start", path[0]), ("goal", path[-1])):
        right.text(
            place % 10, place // 10 - 0.32, name, ha="center", va="center", color=COLOURS[1], fontsize=8
        )
    right.set_xticks(range(10), map(str, WIND))
    right.tick_params(labelcolor=GREY, color=LINE)
    right.set_xlabel("wind upwards", color=GREY, fontsize=10)
    book.save(figure, "windy_grid")


def cliff(book: Book) -> None:
    """Example 6.6: SARSA, Q-learning and Expected SARSA beside the cliff."""
    world, runs = adv.make("jax/Cliff-v0"), book.runs(500)
    mdp = world.mdp
    safest = np.ones(48, int)  # up on the left, right along the top, down on the right
    safest[12::12], safest[11::12] = 0, 2
    book.compare("cliff", [mdp.start @ adv.solve(mdp, adv.PolicyIteration()).value, performance(mdp, safest)])

    common = {"learning_rate": 0.5, "epsilon": 0.1, "gamma": 1.0}
    methods = {"SARSA": adv.Sarsa, "Q-learning": adv.QLearning, "Expected SARSA": adv.ExpectedSarsa}
    returns = {
        name: play(method(**common), world, runs, 500, the_total)[0] for name, method in methods.items()
    }
    book.compare("cliff, episodes 101-500", [one[:, 100:].mean(1) for one in returns.values()])
    figure, (axes,) = canvas(7, 4.2)
    for (name, one), colour in zip(returns.items(), COLOURS, strict=False):
        axes.plot(range(1, 501), one.mean(0), color=colour, linewidth=1, label=name)
    title = f"Cliff: reward while learning, mean of {runs} runs"
    styled(axes, title, "episode", "sum of rewards", "lower right", ylim=(-100, 0))
    book.save(figure, "cliff")


def dyna_maze(book: Book) -> None:
    """Figure 8.2: planning steps in the Dyna maze."""
    world, runs = adv.make("jax/DynaMaze-v0"), book.runs(200)
    best = adv.solve(world.mdp, adv.PolicyIteration())
    book.compare("Dyna maze", [np.log(world.mdp.start @ best.value) / np.log(0.95) + 1])
    figure, (left, right) = canvas(11, 4.2, 1, 2)
    for n, colour, wanted in zip((0, 5, 50), COLOURS, ([2, 20], [2, 5], [2, 3]), strict=False):
        algorithm = adv.Dyna(planning_steps=n, learning_rate=0.1, epsilon=0.1, gamma=0.95)
        steps, _ = play(algorithm, world, runs, 50, the_length)
        book.compare(f"Dyna maze, steps, n = {n}", list(steps[:, np.array(wanted) - 1].T))
        left.plot(range(2, 51), steps.mean(0)[1:], color=colour, label=f"n = {n}")
    styled(
        left,
        f"Dyna-Q, n planning steps, mean of {runs} runs",
        "episode",
        "steps",
        ylim=(0, 800),
        xlim=(2, 50),
    )
    draw_grid(right, world.mdp, "Values and best actions", best.value, greedy(best.action_value), ".2f")
    book.save(figure, "dyna_maze")


def changing_mazes(book: Book) -> None:
    """Figures 8.4 and 8.5: Dyna-Q+ in a maze that changes."""
    runs = book.runs(100)
    figure, panels = canvas(11, 4.2, 1, 2)
    mazes = {
        "Blocking maze": (("BlockingMaze-v0", 1000), ("BlockingMazeBlocked-v0", 2000)),
        "Shortcut maze": (("ShortcutMaze-v0", 3000), ("ShortcutMazeOpened-v0", 3000)),
    }
    for axes, (title, phases) in zip(panels, mazes.items(), strict=True):
        for (name, bonus), colour in zip({"Dyna-Q": None, "Dyna-Q+": 1e-3}.items(), COLOURS, strict=False):
            algorithm = adv.Dyna(
                planning_steps=10, learning_rate=0.5, epsilon=0.1, gamma=0.95, exploration_bonus=bonus
            )
            state, rewards = None, []
            for world, steps in phases:  # the episode that the change interrupts starts again
                one, state = play(algorithm, adv.make(f"jax/{world}"), runs, steps, the_reward, "step", state)
                rewards.append(one)
            axes.plot(np.concatenate(rewards, 1).mean(0).cumsum(), color=colour, label=name)
        axes.axvline(phases[0][1], color=GREY, linewidth=1, linestyle=":")
        styled(axes, f"{title}, mean of {runs} runs", "steps", "cumulative reward", "upper left")
    book.save(figure, "changing_mazes")


def maximisation_bias(book: Book) -> None:
    """Figure 6.5: noise biases Q-learning, and double Q-learning less."""
    world, runs = adv.make("jax/MaximisationBias-v0"), book.runs(5000)

    def went_left(moment):
        return moment.length == 2

    figure, (axes,) = canvas(6.4, 4)
    for (name, method), colour in zip(
        {"Q-learning": adv.QLearning, "double Q-learning": adv.DoubleQLearning}.items(), COLOURS, strict=False
    ):
        left, _ = play(method(learning_rate=0.1, epsilon=0.1, gamma=1.0), world, runs, 300, went_left)
        axes.plot(range(1, 301), 100 * left.mean(0), color=colour, label=name)
    axes.axhline(5, color=GREY, linewidth=1, linestyle=":", label="best, 5 %")
    title = f"Maximisation bias, mean of {runs} runs"
    styled(axes, title, "episode", "% of episodes that go left", ylim=(0, 100))
    book.save(figure, "maximisation_bias")


def testbed(book: Book) -> None:
    """Figures 2.2 to 2.6: bandit methods on the ten-armed testbed."""
    world, runs = adv.make("jax/Testbed-v0"), book.runs(2000)

    def reward_and_best(moment):
        return moment.reward, moment.action == moment.hidden.argmax()

    def powers(low, high):
        return [2.0**k for k in range(low, high + 1)]

    figure, panels = canvas(15, 4.4, 1, 3)
    late, colours, colour = {}, iter(COLOURS), ""
    for name, method, parameter, shown, studied in (
        ("ε-greedy, ε", adv.EpsilonGreedyBandit(), "epsilon", [0.0, 0.01, 0.1], powers(-7, -2)),
        ("UCB, c", adv.UCB(), "confidence", [2.0], powers(-4, 2)),
        (
            "optimistic, Q0",
            adv.EpsilonGreedyBandit(0.0, learning_rate=0.1),
            "initial_value",
            [5.0],
            powers(-2, 2),
        ),
        ("gradient, α", adv.GradientBandit(), "learning_rate", [0.1], powers(-5, 2)),
    ):
        with_shown, with_studied = (
            dataclasses.replace(method, **{parameter: jnp.array(settings)}) for settings in (shown, studied)
        )
        (reward, best), _ = play(with_shown, world, runs, 1000, reward_and_best, "step")
        for setting, r, b in zip(shown, reward, 100 * best, strict=True):
            colour, label = next(colours), f"{name} = {setting:g}"
            late[label] = r[:, 900:].mean(1), b[:, 900:].mean(1)
            panels[0].plot(range(1, 1001), r.mean(0), color=colour, linewidth=1, label=label)
            panels[1].plot(range(1, 1001), b.mean(0), color=colour, linewidth=1, label=label)
        reward, _ = play(with_studied, world, runs // 4, 1000, the_reward, "step")
        panels[2].plot(studied, reward.mean((1, 2)), "o-", color=colour, markersize=4, label=name)
    rewards, shares = zip(*list(late.values())[:5], strict=True)
    book.compare("testbed, reward of steps 901-1000", rewards)
    book.compare("testbed, % best of steps 901-1000", shares)
    styled(panels[0], f"Reward, mean of {runs} runs", "steps", "average reward", "lower right", ylim=(0, 1.6))
    styled(panels[1], "Choosing the best arm", "steps", "% of runs", "lower right", ylim=(0, 100))
    panels[2].set_xscale("log", base=2)
    title = "Mean reward of steps 1-1000"
    styled(panels[2], title, "the parameter", "average reward", "upper left", ylim=(1, 1.55))
    book.save(figure, "testbed")


def frozen_lake(book: Book) -> None:
    """Gymnasium's tables: FrozenLake with several discounts and time limits, and Taxi."""
    lakes = {gamma: adv.MDP.from_gymnasium("FrozenLake-v1", gamma=gamma) for gamma in (0.9, 0.95, 0.99, 1.0)}
    best = {gamma: adv.solve(lake, adv.PolicyIteration()) for gamma, lake in lakes.items()}
    lake, large = lakes[1.0], adv.MDP.from_gymnasium("FrozenLake8x8-v1", gamma=0.99)
    in_time = [
        one.start @ adv.solve(one, adv.BackwardInduction(gamma=1.0, horizon=steps)).value[0]
        for one, steps in ((lake, 100), (large, 200))
    ]
    book.compare("FrozenLake 4 x 4", [*(lake.start @ one.value for one in best.values()), in_time[0]])
    largest = adv.solve(large, adv.PolicyIteration())
    book.compare("FrozenLake 8 x 8", [large.start @ largest.value, in_time[1]])
    taxi = adv.MDP.from_gymnasium("Taxi-v4", gamma=1.0)
    book.compare("Taxi", [taxi.start @ adv.solve(taxi, adv.PolicyIteration()).value])

    figure, (left, right) = canvas(11, 5.4, 1, 2)
    draw_grid(left, lakes[0.99], "FrozenLake 4 x 4", best[0.99].value, greedy(best[0.99].action_value), ".2f")
    draw_grid(right, large, "FrozenLake 8 x 8", largest.value, greedy(largest.action_value), ".2f")
    figure.suptitle("Values at γ = 0.99, and best actions; the ice is slippery", color=INK)
    book.save(figure, "frozen_lake")


def star(p: float, kind: str, lam: float, tabular: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Baird's star with action values: `B, C, features`, where `B w' - C w` is the expected step `E[(y - q) ∇q]`.

    Solid leads to the last state, dashed to one of the others; pi takes solid, mu takes it with probability p. States
    are those of mu in the long run, w' are the weights in the target. Values of solid have Baird's features, those of
    dashed a weight each; in a table all have a weight each.
    """
    leads, features = np.zeros((7, 2, 7, 1)), np.zeros((7, 2, 15))
    leads[:, 0, :6], leads[:, 1, 6] = 1 / 6, 1
    features[:6, 1, :6], features[:6, 1, 7], features[6, 1, 6:8] = 2 * np.eye(6), 1, [1, 2]
    features[:, 0, 8:] = np.eye(7)
    features = np.eye(14) if tabular else features.reshape(14, 15)
    pi, mu = np.array([0.0, 1.0]), np.array([1 - p, p])
    trace = {"one-step": 0 * mu, "no rho": lam * mu, "retrace": lam * np.minimum(pi, mu)}[kind]

    def onward(weight: np.ndarray) -> np.ndarray:
        return 0.99 * (leads * weight).reshape(14, 14)

    operator = np.linalg.solve(np.eye(14) - onward(trace), onward(pi) - np.eye(14))
    visits = (np.append(np.full(6, (1 - p) / 6), p)[:, None] * mu).reshape(14, 1)
    return (
        features.T @ (visits * (features + operator @ features)),
        features.T @ (visits * features),
        features,
    )


def star_curve(
    parts: tuple[np.ndarray, np.ndarray, np.ndarray], tau: float, rate: float = 0.05
) -> np.ndarray:
    """The largest |q| after each hundred of 40,000 steps, the target's weights following by tau in each."""
    b, c, features = parts
    size = len(b)
    learns = np.hstack([np.eye(size) - rate * c, rate * b])
    follows = tau * learns + (1 - tau) * np.hstack([np.zeros((size, size)), np.eye(size)])
    hundred = np.linalg.matrix_power(np.vstack([learns, follows]), 100)
    w = np.ones(14) if size == 14 else np.r_[np.ones(6), 10.0, np.ones(8)]
    w, curve = np.r_[w, w], []
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(400):
            curve.append(np.abs(features @ w[:size]).max())
            w = hundred @ w
    return np.where(np.array(curve) < 1e14, curve, np.nan)


def deadly_triad(book: Book) -> None:
    """Example 11.1, Baird's counterexample, with action values: which targets diverge, and what prevents it."""
    figure, panels = canvas(11, 4.4, 1, 2)
    shown = (
        (1 / 7, "one-step", 0.0, 1.0, False, "TD(0)"),
        (1 / 7, "retrace", 1.0, 1.0, False, "Retrace(1)"),
        (1 / 7, "no rho", 0.5, 0.01, False, "no ρ, λ = 0.5, target network"),
        (1 / 7, "one-step", 0.0, 0.01, False, "TD(0), target network"),
        (1 / 7, "retrace", 1.0, 0.01, False, "Retrace(1), target network"),
        (0.7, "one-step", 0.0, 1.0, False, "TD(0)"),
        (0.7, "retrace", 1.0, 1.0, False, "Retrace(1)"),
        (0.7, "no rho", 0.95, 1.0, True, "no ρ, λ = 0.95, table"),
        (0.7, "one-step", 0.0, 1.0, True, "TD(0), table"),
        (0.7, "retrace", 1.0, 1.0, True, "Retrace(1), table"),
    )
    for number, (p, kind, lam, tau, tabular, label) in enumerate(shown):
        curve, style = star_curve(star(p, kind, lam, tabular), tau), "--" if tau < 1 or tabular else "-"
        colour = COLOURS[{"one-step": 0, "retrace": 2, "no rho": 1}[kind]]
        panels[number // 5].plot(100 * np.arange(400), curve, style, color=colour, label=label)
    for axes, name in zip(panels, ("1/7, as Baird's", "0.7"), strict=True):
        axes.set_yscale("log")
        styled(axes, f"μ(solid) = {name}", "steps", "largest |Q - Q of π|", "upper right", ylim=(1e-6, 1e12))
    figure.suptitle("Baird's counterexample: linear action values learned from another policy", color=INK)
    book.save(figure, "deadly_triad")


FIGURES: dict[str, Callable[[Book], None]] = {
    "testbed": testbed,
    "grids": grids,
    "car_rental": car_rental,
    "gambler": gambler,
    "blackjack": blackjack,
    "random_walk": random_walk,
    "windy_grid": windy_grid,
    "cliff": cliff,
    "maximisation_bias": maximisation_bias,
    "random_walk_19": random_walk_19,
    "dyna_maze": dyna_maze,
    "changing_mazes": changing_mazes,
    "short_corridor": short_corridor,
    "frozen_lake": frozen_lake,
    "deadly_triad": deadly_triad,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="The classic experiments with tables: figures, and our numbers beside the published ones."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(FIGURES)}; by default all"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="folder for the figures")
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in FIGURES:
            parser.error(f"there is no {name!r}; use one of {', '.join(FIGURES)}")
    book = Book(given.out, given.quick)
    enable_compilation_cache()
    for name in given.names or FIGURES:
        began = time.perf_counter()
        FIGURES[name](book)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    print(book.table)
    failed = sum("FAIL" in row for row in book.rows)
    print(f"{len(book.rows)} numbers, {failed} outside")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
