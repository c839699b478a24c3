"""The environments of a run where the actors of a cluster hold them, and the arrays that their steps fill."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from advantage.drivers.cluster.actors import Actors
from advantage.drivers.cluster.rollout_actor import Made
from advantage.drivers.host.stepper import Buffers
from advantage.environments.spaces import read, write
from advantage.types import Pytree


class RemoteEnvironments:
    """An `EpisodeHolder` over some of the actors: it resets, restores and closes; actors make rollouts.

    Attributes:
        buffers: the arrays of these environments, `[T, B, ...]`.
        columns: of each actor in them, by its place.
    """

    def __init__(self, actors: Actors, places: Sequence[int], buffers: Buffers):
        self.actors, self.buffers = actors, buffers
        self.owners = [(place, index) for place in places for index in actors.shares[place]]
        self.columns: dict[int, slice] = {}
        begin = 0
        for place in places:
            self.columns[place] = slice(begin, begin + len(actors.shares[place]))
            begin = self.columns[place].stop

    def reset(self) -> None:
        """Begin every environment's first episode."""
        for place, columns in self.columns.items():
            write(self.buffers.obs, (0, columns), self.actors.reset(place))

    def restore(self, index: int, episode: int, actions: Pytree, length: int) -> None:
        """Replay an episode's first steps where the environment is."""
        place, number = self.owners[index]
        obs = self.actors.restore(place, number, episode, jax.tree.map(np.asarray, actions), length)
        write(self.buffers.obs, (0, index), obs)

    def info_names(self) -> list[str]:
        """As in `Stepper.info_names`."""
        return self.actors.info_names()

    def enter(self, place: int, made: Made, steps: int) -> None:
        """Write the first steps of an actor's rollout into its columns."""
        columns, rows = self.columns[place], slice(steps)
        at = rows, columns
        write(self.buffers.obs, (slice(steps + 1), columns), read(made.obs, slice(steps + 1)))
        ends = np.nonzero((made.terminated | made.truncated)[rows])

        def successors(obs: np.ndarray, finals: np.ndarray) -> np.ndarray:
            following = obs[1 : steps + 1].copy()
            following[ends] = finals[: len(ends[0])]
            return following

        write(self.buffers.next_obs, at, jax.tree.map(successors, made.obs, made.finals))
        write(self.buffers.action, at, read(made.action, rows))
        facts = self.buffers.info | {
            name: getattr(self.buffers, name) for name in ("reward", "terminated", "truncated")
        }
        for name, array in facts.items():
            array[at] = (made.info[name] if name in self.buffers.info else getattr(made, name))[rows]

    def close(self) -> None:
        self.actors.close()


def share_of(tree: Pytree, columns: slice, axis: int) -> Pytree:
    """Some columns of arrays whose axis of environments is `axis`."""
    return jax.tree.map(
        lambda x: np.ascontiguousarray(np.asarray(x)[(slice(None),) * axis + (columns,)]), tree
    )
