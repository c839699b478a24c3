"""What a network says of the return of an action: its mean, probabilities of categories, or quantiles.

`[N]` transitions, `K` numbers of each. `MeanReturn`, `Categories` and `Quantiles` have the same functions:

    mean(z)                           Q, `[..., K] -> [...]`
    target(z, reward, discount)       what the outputs for `(s, a)` are compared with, z being those at the successor
    losses(z, target)                 the loss of each transition, and its error for priorities, `[N]` each
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from advantage.types import Array


def support(low: Array | float, high: Array | float, atoms: int) -> Array:
    """The atoms `z_1 = low, ..., z_K = high` at equal distances, `[K]`."""
    return low + (high - low) * jnp.linspace(0.0, 1.0, atoms)


def categorical_projection(probability: Array, reward: Array, discount: Array, atoms: Array) -> Array:
    """The distribution of `reward + discount z` with each mass shared between its two nearest atoms.

        m_i = sum over j of p_j max(0, 1 - |clip(reward + discount z_j) - z_i| / distance)

    clip limits to `[z_1, z_K]`. Mass is kept; so is the mean, unless something was clipped.

    Args:
        probability: p of the atoms at the successor, `[N, K]`.
        reward, discount: `[N]`; discount is 0 where the episode terminated.
        atoms: z, `[K]`.

    Source: Bellemare, Dabney & Munos 2017, "A distributional perspective on reinforcement learning", eq. 7.
    """
    target = jnp.clip(reward[:, None] + discount[:, None] * atoms, atoms[0], atoms[-1])
    distance = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    share = jnp.clip(1 - jnp.abs(target[:, None, :] - atoms[:, None]) / distance, 0, 1)  # [N, i, j]
    return (share * probability[:, None, :]).sum(-1)


def cross_entropy(target: Array, logits: Array) -> Array:
    """`-sum over i of m_i log p_i`, `[N]`, with m the target and p from logits, `[N, K]`."""
    return -(target * jax.nn.log_softmax(logits)).sum(-1)


def huber(error: Array, threshold: Array | float = 1.0) -> Array:
    """`e^2 / 2` where `|e| <= k`, else `k (|e| - k / 2)`; its gradient is clipped to `[-k, k]`.

    Source: Huber 1964, "Robust estimation of a location parameter"; Mnih et al. 2015, "Human-level control through
    deep reinforcement learning", Methods, "Training algorithm".
    """
    size = jnp.abs(error)
    inside = jnp.minimum(size, threshold)
    return inside * (size - 0.5 * inside)


def quantile_huber_loss(quantiles: Array, target: Array, threshold: Array | float = 1.0) -> Array:
    """The loss whose minimum puts quantiles at levels `tau_i = (i - 1/2) / K`.

        L = sum over i, mean over j of |tau_i - 1(u_ij < 0)| huber(u_ij) / k,   u_ij = target_j - quantile_i

    Args:
        quantiles: `[N, K]`.
        target: samples or quantiles of the target, `[N, J]`.
        threshold: k of `huber`.

    Source: Dabney et al. 2018, "Distributional reinforcement learning with quantile regression", eq. 9 and 10.
    """
    levels = (jnp.arange(quantiles.shape[-1]) + 0.5) / quantiles.shape[-1]
    error = target[:, None, :] - quantiles[:, :, None]
    weight = jnp.abs(levels[:, None] - (error < 0))
    return (weight * huber(error, threshold) / threshold).mean(-1).sum(-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MeanReturn:
    """One number, Q itself; `y = r + discount Q'`, and the Huber loss of the error."""

    atoms: int = dataclasses.field(default=1, metadata={"static": True})

    def mean(self, z: Array) -> Array:
        return z[..., 0]

    def target(self, z: Array, reward: Array, discount: Array) -> Array:
        return reward[:, None] + discount[:, None] * z

    def losses(self, z: Array, target: Array) -> tuple[Array, Array]:
        error = target[:, 0] - z[:, 0]
        return huber(error), error


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Categories:
    """Logits of `atoms` returns from `low` to `high`; the projected target, and the cross-entropy from it."""

    low: Array | float
    high: Array | float
    atoms: int = dataclasses.field(metadata={"static": True})

    def mean(self, z: Array) -> Array:
        xp = z.__array_namespace__()
        weight = xp.exp(z - z.max(-1, keepdims=True))
        places = np.linspace(0, 1, self.atoms, dtype=np.float32)
        return (weight * (self.low + (self.high - self.low) * places)).sum(-1) / weight.sum(-1)

    def target(self, z: Array, reward: Array, discount: Array) -> Array:
        atoms = support(self.low, self.high, self.atoms)
        return categorical_projection(jax.nn.softmax(z), reward, discount, atoms)

    def losses(self, z: Array, target: Array) -> tuple[Array, Array]:
        losses = cross_entropy(target, z)
        return losses, losses


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantiles:
    """`atoms` quantiles; those of `r + discount Z'`, and the quantile Huber loss."""

    atoms: int = dataclasses.field(metadata={"static": True})

    def mean(self, z: Array) -> Array:
        return z.mean(-1)

    def target(self, z: Array, reward: Array, discount: Array) -> Array:
        return reward[:, None] + discount[:, None] * z

    def losses(self, z: Array, target: Array) -> tuple[Array, Array]:
        losses = quantile_huber_loss(z, target)
        return losses, losses
