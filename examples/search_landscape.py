"""An animation of eight searches on one landscape: the candidates and the mean of each.

python examples/search_landscape.py [--out docs/search/landscape.gif] [--frames 40]

Between two frames every search evaluates 20 points. Dots are its candidates, with the latest in colour. The cross is
its mean, and the ellipse contains 86 % of the distribution that it draws from, if there is one.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import advantage as adv

ASKED = 20  # evaluations between two frames
START = -1.2, 1.6
SEARCHES = {
    "cem": adv.CEM(candidates=20, elite=0.25, sigma=0.5),
    "cem, extra variance": adv.CEM(
        candidates=20, elite=0.25, sigma=0.5, extra_variance=0.05, extra_variance_decay=0.00125
    ),
    "cma-es": adv.CMAES(candidates=10, sigma=0.3),
    "ga": adv.GeneticAlgorithm(candidates=20, sigma=0.3, sigma_decay=0.95),
    "pattern-search": adv.PatternSearch(step=0.3),
    "es": adv.EvolutionStrategy(candidates=20, sigma=0.15, learning_rate=0.1),
    "ars": adv.AugmentedRandomSearch(directions=10, top_directions=5, sigma=0.15, learning_rate=0.1),
    "finite-differences": adv.FiniteDifferences(width=0.02, learning_rate=0.002),
}
INK, GREY, BLUE, ORANGE = "#24292f", "#8c959f", "#1f6feb", "#d9480f"


class Frame(NamedTuple):
    """The candidates of a search since the last frame `[n, 2]`, and its mean after them.

    `centre` and `covariance` describe the distribution of the last candidates; `least` is the least value so far.
    """

    candidates: np.ndarray
    mean: np.ndarray
    centre: np.ndarray
    covariance: np.ndarray | None
    least: float


def valley(x: Any) -> Any:
    """Rosenbrock's function of `[..., 2]`: a bent valley with its floor falling gently to (1, 1)."""
    return 100 * (x[..., 1] - x[..., 0] ** 2) ** 2 + (1 - x[..., 0]) ** 2


def course(method: Any, frames: int, seed: int = 0) -> list[Frame]:
    """A search from the start point, frame by frame."""
    ask, tell = jax.jit(method.ask), jax.jit(method.tell)
    state, least, found = method.begin(jnp.array(START)), np.inf, []
    for n in range(frames):
        asked = []
        while sum(map(len, asked)) < ASKED:
            centre, covariance = np.asarray(state.mean), covariance_of(method, state)
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), n), len(asked))
            candidates = ask(state, key)
            cost = valley(candidates)
            state, least = tell(state, candidates, cost), min(least, float(cost.min()))
            asked.append(np.asarray(candidates))
        found.append(Frame(np.concatenate(asked), np.asarray(state.mean), centre, covariance, least))
    return found


def covariance_of(method: Any, state: Any) -> np.ndarray | None:
    """The covariance of the distribution of the candidates, if it is normal; else None."""
    if isinstance(method, adv.EvolutionStrategy | adv.AugmentedRandomSearch):
        return method.sigma**2 * np.eye(2)
    if not isinstance(method, adv.CEM | adv.CMAES):
        return None
    covariance = np.asarray(state.covariance)
    covariance = covariance if covariance.ndim == 2 else np.diag(covariance)
    return covariance * float(state.sigma) ** 2 if isinstance(method, adv.CMAES) else covariance


def ellipse(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Points `[100, 2]` two standard deviations away."""
    value, vector = np.linalg.eigh(covariance)
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    return mean + 2 * ((vector * np.sqrt(np.maximum(value, 0))) @ circle).T


def draw(courses: dict[str, list[Frame]], n: int, background: tuple[np.ndarray, ...]) -> Image.Image:
    """Frame n of all searches."""
    figure = Figure(figsize=(11, 5.6), dpi=90, facecolor="white", layout="constrained")
    for axes, (name, frames) in zip(figure.subplots(2, 4).ravel(), courses.items(), strict=True):
        axes.contour(*background, levels=np.geomspace(0.1, 2000, 12), colors=GREY, linewidths=0.5, alpha=0.7)
        way = np.array([START, *(frame.mean for frame in frames[: n + 1])])
        axes.plot(*way.T, color=INK, linewidth=0.9)
        if n:
            axes.plot(*frames[n - 1].candidates.T, ".", color=GREY, markersize=3)
        axes.plot(*frames[n].candidates.T, ".", color=BLUE, markersize=4)
        covariance = frames[n].covariance
        if covariance is not None:
            axes.plot(*ellipse(frames[n].centre, covariance).T, color=BLUE, linewidth=1)
        axes.plot(*frames[n].mean, "+", color=ORANGE, markersize=9, markeredgewidth=2)
        axes.plot(1, 1, "*", color=INK, markersize=6)
        axes.set_title(f"{name}: {frames[n].least:.1e}", color=INK, fontsize=10)
        axes.set(xlim=(-2, 2), ylim=(-1, 3), xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_color("#d0d7de")
    figure.suptitle(f"least value after {(n + 1) * ASKED} evaluations", color=INK, fontsize=11)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def main(arguments: list[str] | None = None) -> dict[str, list[Frame]]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("landscape.gif"))
    parser.add_argument("--frames", type=int, default=40)
    chosen = parser.parse_args(arguments)
    x, y = np.meshgrid(np.linspace(-2, 2, 200), np.linspace(-1, 3, 200))
    background = x, y, valley(np.stack([x, y], -1))
    courses = {name: course(method, chosen.frames) for name, method in SEARCHES.items()}
    images = [draw(courses, n, background) for n in range(chosen.frames)]
    palette = images[min(3, len(images) - 1)].quantize(64, Image.Quantize.MAXCOVERAGE)
    first, *others = (image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    first.save(chosen.out, save_all=True, append_images=others, duration=250, loop=0)
    for name, frames in courses.items():
        print(f"{name:20s} {frames[-1].least:.2e} after {chosen.frames * ASKED} evaluations")
    return courses


if __name__ == "__main__":
    main()
