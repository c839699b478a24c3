"""Networks that predict what happens next: one, or an ensemble whose disagreement shows what is not known.

Source: Chua et al. 2018, "Deep reinforcement learning in a handful of trials using probabilistic dynamics models",
sections 3 and 4, appendix A.1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advantage.models.interface import Imagined, Model
from advantage.models.vectors import VectorSpaces
from advantage.policies.networks import MLP, linear, linear_init
from advantage.running_moments import Moments, moments_init, moments_update
from advantage.types import Array, Key, Pytree

ModelKind = Literal["gaussian", "deterministic"]
LOG_VARIANCE = (-10.0, 0.5)  # where the bounds of log-variances begin, in units of the outputs' variance
FIRST_LOG_ODDS = -7.0  # of an end, before one was seen; else a policy would seek ends that do not exist


class Examples(Protocol):
    """What networks are fitted to, `[N, ...]`: inputs and outputs before they are scaled, and whether the MDP ended."""

    @property
    def inputs(self) -> Array: ...

    @property
    def outputs(self) -> Array: ...

    @property
    def terminated(self) -> Array: ...


class Transitions(NamedTuple):
    """Transitions as vectors, `[N, ...]`: observation, action, reward, successor, and whether the MDP ended there."""

    x: Array
    action: Array
    reward: Array
    next_x: Array
    terminated: Array

    @property
    def inputs(self) -> Array:
        """The networks' input before it is scaled, `[N, d + k]`."""
        return jnp.concatenate([self.x, self.action], axis=-1)

    @property
    def outputs(self) -> Array:
        """What the networks predict before it is scaled: the change of the observation and the reward, `[N, d + 1]`."""
        return jnp.concatenate([self.next_x - self.x, self.reward[:, None]], axis=-1)


class Scales(NamedTuple):
    """Statistics of inputs and outputs of all examples seen, and the factor of predicted standard deviations.

    Attributes:
        inputs, outputs: running moments.
        calibration: `[d + 1]`, see `calibrated`.
    """

    inputs: Moments
    outputs: Moments
    calibration: Array


class Prediction(NamedTuple):
    """A Gaussian over scaled outputs, and the log-odds of a termination: `[..., D]`, `[..., D]`, `[...]`."""

    mean: Array
    log_variance: Array
    end: Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Ensemble:
    """E networks `inputs -> outputs, log-variance, log-odds of termination`, on scaled inputs and outputs.

    A model of what follows takes `[x, a]` and gives `[x' - x, r]`. Parameters are `{"network", "head", "bounds"}`, each
    leaf with an axis of members in front.

    Attributes:
        network: the layers of each member.
        num_inputs, num_outputs: I and D.
        members: E.
        kind: whether members predict variances.
    """

    network: MLP
    num_inputs: int
    num_outputs: int
    members: int
    kind: ModelKind = "gaussian"

    def init(self, key: Key) -> Pytree:
        """Draw the members' parameters, each its own."""

        def member(key: Key) -> Pytree:
            key_network, key_head = jax.random.split(key)
            x = np.zeros((1, self.num_inputs), np.float32)
            network = self.network.init(key_network, x)
            width = self.network.hidden[-1] if self.network.hidden else x.shape[1]
            (head,) = linear_init(key_head, [(width, 2 * self.num_outputs + 1)], [0.01])
            head["bias"] = head["bias"].at[-1].set(FIRST_LOG_ODDS)
            bounds = jnp.repeat(jnp.array(LOG_VARIANCE)[:, None], self.num_outputs, axis=1)
            return {"network": network, "head": head, "bounds": bounds}

        return jax.vmap(member)(jax.random.split(key, self.members))

    def scales_init(self) -> Scales:
        """Statistics before the first transition."""
        inputs = moments_init((self.num_inputs,))
        return Scales(inputs, moments_init((self.num_outputs,)), jnp.ones(self.num_outputs))

    def predict(self, member: Pytree, scales: Scales, inputs: Array) -> Prediction:
        """What one member predicts for inputs `[..., I]`; log-variances are bounded softly (appendix A.1)."""
        features = self.network.apply(member["network"], scaled(scales.inputs, inputs))
        outputs = linear(member["head"], features)
        mean, raw, end = jnp.split(outputs, [self.num_outputs, 2 * self.num_outputs], axis=-1)
        lowest, highest = member["bounds"]
        below = highest - jax.nn.softplus(highest - raw)
        return Prediction(mean, lowest + jax.nn.softplus(below - lowest), end[..., 0])

    def loss(self, member: Pytree, scales: Scales, rows: Examples) -> Array:
        """The mean over examples of what one member loses, per output: the negative log-likelihood, scaled.

            gaussian        1/2 sum ((z - m)^2 / v + log v) / D
            deterministic   1/2 sum (z - m)^2 / D

        plus the cross-entropy of terminations. z are scaled outputs.
        """
        predicted = self.predict(member, scales, rows.inputs)
        squared = jnp.square(scaled(scales.outputs, rows.outputs) - predicted.mean)
        if self.kind == "gaussian":
            squared = squared * jnp.exp(-predicted.log_variance) + predicted.log_variance
        ends = optax.sigmoid_binary_cross_entropy(predicted.end, rows.terminated.astype(jnp.float32))
        return 0.5 * squared.mean() + ends.mean()

    def objective(self, member: Pytree, scales: Scales, rows: Examples) -> Array:
        """The loss, and a pull that keeps the bounds of log-variances close (appendix A.1)."""
        lowest, highest = member["bounds"]
        return self.loss(member, scales, rows) + 0.01 * (highest - lowest).mean()


def scaled(moments: Moments, x: Array) -> Array:
    """`(x - mean) / std`."""
    return (x - moments.mean.value) / std_of(moments)


def std_of(moments: Moments) -> Array:
    """The standard deviation; 1 for a number that never changes."""
    variance = moments.variance.value
    return jnp.where(variance > 1e-12, jnp.sqrt(variance), 1.0)


def scales_update(scales: Scales, rows: Examples) -> Scales:
    """The statistics with more examples."""
    inputs = moments_update(scales.inputs, rows.inputs)
    return scales._replace(inputs=inputs, outputs=moments_update(scales.outputs, rows.outputs))


def calibrated(ensemble: Ensemble, members: Pytree, scales: Scales, held_out: Examples) -> Scales:
    """The statistics with the factor by which errors on held-out transitions exceed what is predicted, per output.

        calibration_d = sqrt(mean over members and transitions of (z_d - m_d)^2 / v_d)

    Intervals of the predicted Gaussians then cover at their stated rates, if errors are Gaussian.
    """
    if ensemble.kind == "deterministic":
        return scales
    predicted = jax.vmap(ensemble.predict, (0, None, None))(members, scales, held_out.inputs)
    error = scaled(scales.outputs, held_out.outputs) - predicted.mean
    ratio = jnp.square(error) * jnp.exp(-predicted.log_variance)
    return scales._replace(calibration=jnp.sqrt(ratio.mean((0, 1)) + 1e-12))


class LearnedModel(NamedTuple):
    """An ensemble with its parameters as a model: the i-th of N states belongs to member `i mod E` at every step.

    So a plan's particles each follow one member, as in trajectory sampling with a fixed bootstrap (section 4). Members
    that predict variances draw outputs and terminations; others give the mean, and an end where it is the likelier.

    Attributes:
        ensemble, spaces: shapes; static.
        members: parameters, E in front.
        scales: statistics and calibration.
    """

    ensemble: Ensemble
    spaces: VectorSpaces
    members: Pytree
    scales: Scales

    @property
    def sign(self) -> float:
        """1: what is learned is the world of one player."""
        return 1.0

    def begin(self, obs: Pytree) -> Array:
        return self.spaces.vector(obs)

    def observation(self, state: Array) -> Pytree:
        return self.spaces.obs(state)

    def allowed(self, state: Array) -> None:
        return None

    def step(self, state: Array, action: Pytree, key: Key) -> Imagined:
        key_outputs, key_end = jax.random.split(key)
        outputs, end = self.sample(state, self.spaces.action_vector(action), key_outputs)
        change, reward = outputs[:, :-1], outputs[:, -1]
        gaussian = self.ensemble.kind == "gaussian"
        terminated = jax.random.bernoulli(key_end, jax.nn.sigmoid(end)) if gaussian else end > 0
        return Imagined(self.spaces.bounded(state + change), reward, terminated)

    def sample(self, x: Array, action: Array, key: Key) -> tuple[Array, Array]:
        """Outputs in their own units, `[N, D]`, and the log-odds of terminations, `[N]`."""
        count, number = len(x), len(jax.tree.leaves(self.members)[0])
        inputs = jnp.concatenate([x, action], axis=-1)
        padded = jnp.pad(inputs, ((0, -count % number), (0, 0)))
        of_member = padded.reshape(-1, number, padded.shape[1]).swapaxes(0, 1)
        predicted: Any = jax.vmap(self.ensemble.predict, (0, None, 0))(self.members, self.scales, of_member)
        mean, log_variance, end = (
            part.swapaxes(0, 1).reshape(-1, *part.shape[2:])[:count] for part in predicted
        )
        if self.ensemble.kind == "gaussian":
            std = jnp.exp(0.5 * log_variance) * self.scales.calibration
            mean = mean + std * jax.random.normal(key, mean.shape)
        moments = self.scales.outputs
        return moments.mean.value + std_of(moments) * mean, end


def reordered(model: Model, key: Key) -> Model:
    """The model with its members turned by a random number of places, so that any of them is the first; else as it is.

    A search that steps one state at a time would otherwise meet the first member only.
    """
    if not isinstance(model, LearnedModel):
        return model
    places = jax.random.randint(key, (), 0, len(jax.tree.leaves(model.members)[0]))
    return model._replace(members=jax.tree.map(lambda x: jnp.roll(x, places, axis=0), model.members))
