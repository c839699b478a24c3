"""Draw what a latent model imagines beside what happened, from a run of dreamer or planet in a world of grey pictures.

python docs/imagination.py runs/dreamer                             # docs/figures/imagination.png
"""

import sys
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

import advantage as adv
from advantage.algorithms.planning.shared.latent_learning import believed, no_belief
from advantage.environments.spaces import environment_action, read

HERE = Path(__file__).parent
SEEN, IMAGINED, EVERY = 5, 35, 3  # steps with observations, steps without, and which of them are drawn
INK = "#24292f"


def played(run: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of an episode of the agent, and what the model makes of them, `[T, H, W]`, from 0 to 1.

    For the first steps it sees each picture; afterwards it knows the actions only.
    """
    agent = adv.load(run)
    world, model, networks = adv.make(agent.environment), agent.state.world.model, agent.state.world.networks
    seen = jax.tree.map(lambda x: x[None], no_belief(networks))
    memory, key = agent.actor.initial_memory(), jax.random.key(3)
    state, obs = world.reset(key)
    belief, true, predicted = seen.belief, [], []
    step = jax.jit(world.step)
    for time in range(SEEN + IMAGINED):
        if time < SEEN:
            belief = believed(model, obs[None], seen._replace(belief=belief), None)
        true.append(np.asarray(obs, float)[..., 0] / 255)
        predicted.append(np.asarray(model.observation(belief)[0])[..., 0])
        action, memory = agent.actor.greedy(np.asarray(obs)[None], memory)
        seen = seen._replace(action=networks.action_vector(action))
        if time >= SEEN - 1:
            belief = model.step(belief, action, jax.random.fold_in(key, time)).state
        given = read(environment_action(world.action_space, action, agent.spec.action_units), 0)
        state, obs, _, _ = step(state, given, key)
    return np.array(true), np.array(predicted)


def draw(run: str, path: Path) -> None:
    true, predicted = played(run)
    times = range(SEEN - 1 - EVERY, SEEN + IMAGINED, EVERY)
    figure = Figure(figsize=(0.85 * len(times), 2.3), dpi=110, facecolor="white", layout="constrained")
    axes = figure.subplots(2, len(times))
    for column, time in enumerate(times):
        for row, pictures in enumerate((true, predicted)):
            axis = axes[row, column]
            axis.imshow(np.clip(pictures[time], 0, 1), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            for side in axis.spines.values():
                side.set(
                    color="#1f6feb" if time < SEEN and row else INK,
                    linewidth=2 if time < SEEN and row else 0.5,
                )
        axes[0, column].set_title(f"{time - SEEN + 1:+d}", fontsize=8, color=INK)
    for row, word in enumerate(("true", "model")):
        axes[row, 0].set_ylabel(word, fontsize=9, color=INK)
    figure.suptitle("steps since the last picture that the model saw (blue)", fontsize=9, color=INK)
    figure.savefig(path)


if __name__ == "__main__":
    draw(sys.argv[1], HERE / "figures" / "imagination.png")
