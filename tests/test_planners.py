"""Planners against exact answers: in small worlds, on trees, and on linear-quadratic problems."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from probe_models import StateModel
from random_tables import random_mdp

import advantage as adv
from advantage.environments.tables.world import world_of
from advantage.environments.worlds.cart_pole_swing_up import CartPoleSwingUp
from advantage.environments.worlds.cartpole import CartPole, continuous_cart_pole
from advantage.environments.worlds.pendulum import Pendulum
from advantage.models.interface import Imagined
from advantage.models.true_world import TableModel, true_model
from advantage.planners.action_sequences import PlannedActions, coloured_noise, planned_actions
from advantage.planners.cross_entropy import CrossEntropy, cross_entropy_planning
from advantage.planners.exhaustive import exhaustive_search
from advantage.planners.gradient import gradient_planning
from advantage.planners.imagination import PlanningProblem, imagined_return, mean_return, random_playouts
from advantage.planners.random_shooting import random_shooting
from advantage.planners.tree_search import most_visited, tree_search

KEY = jax.random.key(0)


# -- playing sequences -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Counter(StateModel):
    """A model whose state counts its steps: reward 1, 2, 3, ...; it ends at `last`, and is worth a lot after that."""

    last: int

    def step(self, state, action, key):
        state = state + 1
        return Imagined(
            state, jnp.where(state > self.last, 1e6, state).astype(jnp.float32), state == self.last
        )


@pytest.mark.parametrize("horizon", [1, 3, 6])
def test_a_return_stops_at_the_termination(horizon):
    """Rewards after it do not count."""
    gamma = 0.9
    for last in (2, 4, 100):
        start, actions = jnp.zeros(1, jnp.int32), jnp.zeros((horizon, 1))
        found = imagined_return(Counter(last), start, actions, KEY, gamma=gamma)
        expected = sum(gamma**t * (t + 1) for t in range(min(horizon, last)))
        np.testing.assert_allclose(found[0], expected, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Poison(StateModel):
    """Rewards `1, 2` for actions 1, an end with the second, and NaN from there on, also in derivatives."""

    def step(self, state, action, key):
        scale = jnp.sqrt(1.0 - state)  # no number above 1, and without a slope at 1
        return Imagined(state + 0.5 * action, scale * 0 + (1 + 2 * state) * action, state >= 0.5)


def test_nothing_beyond_an_end_reaches_a_plan():
    """Neither a return nor its derivative; a state after an end may be no number at all."""
    state, actions = jnp.zeros(1), jnp.ones((5, 1))
    played = functools.partial(imagined_return, Poison(), state, key=KEY, gamma=0.5)
    total, slope = jax.value_and_grad(lambda actions: played(actions=actions)[0])(actions)
    np.testing.assert_allclose(total, 1 + 0.5 * 2)
    np.testing.assert_allclose(slope[:, 0], [1.5, 1, 0, 0, 0])
    problem = PlanningProblem(Ends(), PlannedActions(choices=1), 1.0)
    assert random_playouts(problem, jnp.zeros(1), KEY, playouts=2, steps=4) == 2


@dataclasses.dataclass(frozen=True)
class Ends(StateModel):
    """Two steps of reward 1, and NaN."""

    def step(self, state, action, key):
        after = jnp.where(state[:, 0] >= 1, jnp.nan, state[:, 0] + 0.5)
        return Imagined(after[:, None], after * 0 + 1, after >= 1)


def test_particles_are_averaged():
    mdp = random_mdp(np.random.default_rng(1), 5, 2)
    model = TableModel(world_of(mdp))
    actions = jnp.array([[0, 1]])
    found = mean_return(
        PlanningProblem(model, PlannedActions(choices=2), 1.0, 40_000), jnp.int32(3), actions, KEY
    )
    np.testing.assert_allclose(found, mdp.expected_reward[3, :2], atol=0.02)


# -- distributions over sequences --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [8, 9])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.5])
def test_coloured_noise_has_unit_variance_and_its_spectrum(length, beta):
    noise = np.asarray(coloured_noise(KEY, (200_000, length), beta), np.float64)
    np.testing.assert_allclose(noise.var(0), 1.0, atol=0.02)
    power = np.square(np.abs(np.fft.rfft(noise))).mean(0)[1:]
    frequency = np.arange(1, length // 2 + 1) / length
    ratio = power * frequency**beta
    np.testing.assert_allclose(ratio / ratio[0], 1.0, atol=0.03)


def test_normals_are_fitted_moved_and_clipped():
    actions = PlannedActions(low=(-1.0, 0.0), high=(1.0, 4.0))
    begin = actions.begin(3, 0.5)
    np.testing.assert_allclose(begin.mean, [[0, 2]] * 3)
    np.testing.assert_allclose(begin.std, [[0.5, 1]] * 3)
    elites = jax.random.normal(KEY, (3, 7, 2))
    fitted = actions.refit(begin, elites, 0.25)
    np.testing.assert_allclose(fitted.mean, 0.25 * begin.mean + 0.75 * elites.mean(1), rtol=1e-6)
    np.testing.assert_allclose(fitted.std, 0.25 * begin.std + 0.75 * np.std(elites, axis=1), rtol=1e-5)
    later = actions.later(fitted, 0.5)
    np.testing.assert_array_equal(later.mean, fitted.mean[jnp.array([1, 2, 2])])
    np.testing.assert_array_equal(later.std, begin.std)
    drawn = actions.sample(begin._replace(std=begin.std * 100), KEY, 50)
    assert drawn.shape == (3, 50, 2) and (drawn[..., 1] >= 0).all() and (drawn[..., 1] <= 4).all()
    assert (drawn[..., 0] == 1).any() and (drawn[..., 0] == -1).any()


def test_choices_are_fitted_and_moved():
    actions = PlannedActions(choices=3)
    elites = jnp.array([[0, 0, 1, 2], [2, 2, 2, 2]])
    fitted = actions.refit(actions.begin(2, 1.0), elites, 0.0)
    np.testing.assert_allclose(fitted.probability, [[0.5, 0.25, 0.25], [0, 0, 1]])
    np.testing.assert_array_equal(actions.best(fitted), [0, 2])
    np.testing.assert_allclose(actions.later(fitted, 1.0).probability, [[1 / 6, 1 / 6, 4 / 6]] * 2, rtol=1e-6)
    drawn = np.asarray(actions.sample(fitted, KEY, 40_000))
    np.testing.assert_allclose(np.bincount(drawn[0]) / 40_000, [0.5, 0.25, 0.25], atol=0.01)
    assert (drawn[1] == 2).all()


# -- exact answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_exhaustive_search_is_backward_induction_and_optimal(seed):
    """In twenty random worlds, at every state: values of each depth, and with the optimal values below, the optimum."""
    mdp = random_mdp(np.random.default_rng(seed), 4, 2, ends=seed % 2 == 0)
    model = TableModel(world_of(mdp))
    problem = PlanningProblem(model, PlannedActions(choices=2), mdp.gamma)
    search = functools.partial(exhaustive_search, problem)
    values = np.zeros(mdp.n_states)
    for depth in (1, 2, 3):
        q = mdp.expected_reward + mdp.gamma * mdp.expected(np.where(mdp.terminal, 0, values))
        found = jax.jit(jax.vmap(functools.partial(search, depth=depth)))(jnp.arange(mdp.n_states))
        np.testing.assert_allclose(found, q, atol=1e-5)
        values = q.max(1)
    plan = adv.solve(mdp, adv.PolicyIteration())
    v = jnp.asarray(plan.value, jnp.float32)
    found = jax.vmap(functools.partial(search, depth=2, value=lambda s: v[s]))(jnp.arange(mdp.n_states))
    going = ~np.asarray(mdp.terminal)
    np.testing.assert_allclose(found.max(1)[going], plan.value[going], atol=1e-4)


def small_world(seed):
    """A deterministic world of six states and three actions, without an end."""
    rng = np.random.default_rng(seed)
    transition = np.eye(6)[rng.integers(0, 6, (6, 3))]
    return adv.MDP(transition, rng.normal(size=(6, 3)), gamma=0.8)


def best_of(mdp, depth):
    """`Q_depth`, `[S, A]`."""
    values = np.zeros(mdp.n_states)
    for _ in range(depth):
        q = mdp.expected_reward + mdp.gamma * mdp.expected(values)
        values = q.max(1)
    return q


@pytest.mark.parametrize("seed", range(5))
def test_shooting_and_cross_entropy_find_the_best_sequence(seed):
    """Without chance, with enough candidates: the value of backward induction, and an action that has it."""
    mdp, depth = small_world(seed), 4
    model, actions = TableModel(world_of(mdp)), PlannedActions(choices=3)
    q = best_of(mdp, depth)
    problem = PlanningProblem(model, actions, mdp.gamma)
    plan = functools.partial(random_shooting, problem, horizon=depth, candidates=2000)
    found = jax.vmap(lambda s: plan(s, KEY))(jnp.arange(6))
    np.testing.assert_allclose(found.value, q.max(1), atol=1e-5)
    np.testing.assert_allclose(q[np.arange(6), found.actions[:, 0]], q.max(1), atol=1e-5)

    def cross_entropy(s):
        method = CrossEntropy(candidates=300, elites=20, iterations=6)
        return cross_entropy_planning(problem, s, KEY, actions.begin(depth, 1.0), method)

    sequences, value = jax.vmap(cross_entropy)(jnp.arange(6))
    np.testing.assert_allclose(value, q.max(1), atol=1e-4)
    first = sequences.probability[:, 0].argmax(-1)
    np.testing.assert_allclose(q[np.arange(6), first], q.max(1), atol=1e-5)


def test_kept_elites_are_candidates_again():
    """With one candidate beside the elites the best can only stay or get better; without, it is lost."""
    mdp, actions = small_world(3), PlannedActions(choices=3)
    problem = PlanningProblem(TableModel(world_of(mdp)), actions, 1.0)

    def values(**options):
        def value(n):
            method = CrossEntropy(candidates=4, elites=3, iterations=n, **options)
            return cross_entropy_planning(
                problem, jnp.int32(0), jax.random.key(2), actions.begin(5, 1.0), method
            )[1]

        return list(map(float, map(jax.jit(value), range(1, 9))))

    kept = values(keep_elites=True)
    assert kept == sorted(kept)
    forgotten = values()
    assert forgotten != sorted(forgotten)


def tree_world(seed):
    """A tree of two actions and three levels, 15 states and an end, with a random reward for each action."""
    rng = np.random.default_rng(seed)
    transition, reward = np.zeros((16, 2, 16)), np.zeros((16, 2))
    for state in range(15):
        for action in range(2):
            transition[state, action, 2 * state + 1 + action if state < 7 else 15] = 1
            reward[state, action] = rng.normal()
    transition[15, :, 15] = 1
    terminal = np.arange(16) == 15
    return adv.MDP(transition, reward, terminal=terminal, start=np.eye(16)[0], gamma=0.9)


def test_tree_search_converges_to_the_optimum():
    """On five small trees: the root's action, and its value the closer the more simulations."""
    worlds = [tree_world(seed) for seed in range(5)]
    exact = np.array([adv.solve(mdp).value[0] for mdp in worlds])
    errors = []
    for simulations in (50, 1500):
        found = []
        for mdp in worlds:
            tree = jax.jit(
                lambda mdp=mdp, simulations=simulations: tree_search(
                    PlanningProblem(TableModel(world_of(mdp)), PlannedActions(choices=2), mdp.gamma),
                    jnp.int32(0),
                    KEY,
                    lambda state, key: jnp.zeros(()),
                    simulations=simulations,
                    successors=1,
                    exploration=0.5,
                )
            )()
            assert int(most_visited(tree)) == adv.solve(mdp).policy[0]
            found.append(float(tree.action_value[0, most_visited(tree)]))
        errors.append(np.abs(exact - found).max())
    assert errors[1] < 0.1 and errors[1] < 0.5 * errors[0]


def test_tree_search_with_chance():
    """Twenty random worlds with four successors an action: with room for them the best action nearly everywhere."""
    blocks = [random_mdp(np.random.default_rng(seed), 4, 2) for seed in range(20)]
    transition = np.zeros((80, 2, 80))
    for i, mdp in enumerate(blocks):
        transition[4 * i : 4 * i + 4, :, 4 * i : 4 * i + 4] = mdp.transition
    worlds = adv.MDP(transition, np.concatenate([mdp.reward for mdp in blocks]), gamma=0.6)
    q = adv.solve(worlds).action_value

    def search(s):
        tree = tree_search(
            PlanningProblem(TableModel(world_of(worlds)), PlannedActions(choices=2), worlds.gamma),
            s,
            jax.random.fold_in(KEY, s),
            lambda state, key: jnp.zeros(()),
            simulations=400,
            successors=4,
            exploration=1.0,
        )
        return most_visited(tree)

    found = np.asarray(jax.jit(jax.vmap(search))(jnp.arange(80)))
    matters = np.abs(np.diff(q, axis=1)[:, 0]) > 0.3
    assert matters.sum() > 30
    assert (found != q.argmax(1))[matters].mean() < 0.03


def test_the_tree_is_what_its_simulations_say():
    """Visits and returns of every node from its children: sums, the definition."""
    mdp, gamma = random_mdp(np.random.default_rng(5), 5, 2, gamma=0.7, ends=True), 0.7
    values = np.random.default_rng(0).normal(size=5).astype(np.float32)
    tree = jax.jit(
        lambda: tree_search(
            PlanningProblem(TableModel(world_of(mdp)), PlannedActions(choices=2), mdp.gamma),
            jnp.int32(1),
            KEY,
            lambda state, key: jnp.asarray(values)[state],
            simulations=60,
            successors=5,
            exploration=0.7,
        )
    )()
    size = int(tree.size)
    assert size <= 61 and tree.visits[0].sum() == 60

    # how often each node was reached: from the visits of its parent's action, split among the children of that action
    total = np.zeros(size)
    counts = np.zeros(size, int)
    for node in range(size - 1, 0, -1):  # children have higher numbers
        inside = int(tree.visits[node].sum())
        ended = bool(tree.ended[node])
        state = int(tree.state[node])
        counts[node] = inside + 1 if not ended else 0
        estimate = 0.0 if ended else values[state]
        total[node] = estimate + float(tree.total[node].sum())
    for node in range(size):
        for action in range(2):
            children = [c for c in np.asarray(tree.child[node, action]) if c >= 0]
            ends = [c for c in children if tree.ended[c]]
            going = [c for c in children if not tree.ended[c]]
            visits = int(tree.visits[node, action])
            at_ends = visits - counts[going].sum()
            assert at_ends >= len(ends)
            if len(ends) <= 1:
                expected = sum(counts[c] * float(tree.reward[c]) + gamma * total[c] for c in going)
                expected += sum(at_ends * float(tree.reward[c]) for c in ends)
                np.testing.assert_allclose(float(tree.total[node, action]), expected, atol=1e-3)


@dataclasses.dataclass(frozen=True)
class TakeTheLast(StateModel):
    """Nim: two players take one or two of n stones in turn; who takes the last wins 1."""

    sign = -1.0

    def allowed(self, state):
        return jnp.arange(2) < state[:, None]

    def step(self, state, action, key):
        left = state - action - 1
        return Imagined(left, jnp.where(left == 0, 1.0, 0.0), left == 0)


def test_two_players_who_move_in_turn():
    """Multiples of three are lost: the value is -1 there and 1 elsewhere, and the best move leaves a multiple."""

    def search(stones):
        return tree_search(
            PlanningProblem(TakeTheLast(), PlannedActions(choices=2), 1.0),
            stones,
            KEY,
            lambda state, key: jnp.zeros(()),
            simulations=400,
            successors=1,
            exploration=1.0,
        )

    stones = jnp.arange(2, 9)
    trees = jax.vmap(search)(stones)
    moves = jax.vmap(most_visited)(trees)
    values = jax.vmap(lambda tree, move: tree.action_value[0, move])(trees, moves)
    lost = np.asarray(stones) % 3 == 0
    assert (np.asarray(values)[lost] < -0.6).all() and (np.asarray(values)[~lost] > 0.6).all()
    np.testing.assert_array_equal((np.asarray(stones) - 1 - np.asarray(moves))[~lost] % 3, 0)


# -- linear-quadratic problems -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LinearQuadratic(StateModel):
    """`s' = A s + B a`, reward `-(s' Q s' + a R a)` of the next state and the action."""

    a: tuple = ((1.0, 0.2), (0.0, 0.9))
    b: tuple = ((0.0,), (0.3,))

    def step(self, state, action, key):
        state = state @ np.array(self.a, np.float32).T + action @ np.array(self.b, np.float32).T
        cost = jnp.square(state).sum(-1) + 0.1 * jnp.square(action).sum(-1)
        return Imagined(state, -cost, jnp.zeros(len(state), bool))


def regulator(horizon):
    """The best actions from a start, by dynamic programming in float64: `K_t` with `a_t = -K_t s_t`."""
    a, b = np.array(LinearQuadratic().a), np.array(LinearQuadratic().b)
    p, gains = np.zeros((2, 2)), []
    for _ in range(horizon):
        cost = np.eye(2) + p
        gain = np.linalg.solve(0.1 * np.eye(1) + b.T @ cost @ b, b.T @ cost @ a)
        p = a.T @ cost @ (a - b @ gain)
        gains.append(gain)
    return gains[::-1], p


def test_planners_find_the_linear_quadratic_regulator():
    horizon, start = 6, np.array([1.0, -0.5])
    gains, p = regulator(horizon)
    expected, s = [], start
    for gain in gains:
        expected.append(-gain @ s)
        s = np.array(LinearQuadratic().a) @ s + np.array(LinearQuadratic().b) @ expected[-1]
    actions, state = PlannedActions(low=(-5.0,), high=(5.0,)), jnp.asarray(start, jnp.float32)
    problem = PlanningProblem(LinearQuadratic(), actions, 1.0)
    by_gradient = jax.jit(
        lambda: gradient_planning(
            problem, state, KEY, jnp.zeros((horizon, 1)), iterations=800, step_size=0.02
        )
    )()
    np.testing.assert_allclose(by_gradient.actions, expected, atol=0.01)
    np.testing.assert_allclose(by_gradient.value, -start @ p @ start, atol=1e-3)
    sequences, _ = jax.jit(
        lambda: cross_entropy_planning(
            problem, state, KEY, actions.begin(horizon, 0.5), CrossEntropy(1000, 50, 25)
        )
    )()
    np.testing.assert_allclose(sequences.mean, expected, atol=0.05)


def test_the_gradient_through_a_model_is_the_analytic_one():
    """`∇_a` of the return of a sequence, by hand: the costate runs backwards."""
    a, b = np.array(LinearQuadratic().a), np.array(LinearQuadratic().b)
    sequence = np.random.default_rng(1).normal(size=(5, 1))
    states = [np.array([0.3, 1.0])]
    for action in sequence:
        states.append(a @ states[-1] + b @ action)
    costate, expected = np.zeros(2), []
    for action, state in zip(sequence[::-1], states[:0:-1], strict=True):
        costate = -2 * state + costate
        expected.append(b.T @ costate - 0.2 * action)
        costate = a.T @ costate
    problem = PlanningProblem(LinearQuadratic(), PlannedActions(low=(-5.0,), high=(5.0,)), 1.0)
    start = jnp.asarray(states[0], jnp.float32)
    value = lambda x: mean_return(problem, start, x[:, None], KEY)[0]  # noqa: E731
    found = jax.grad(value)(jnp.asarray(sequence, jnp.float32))
    np.testing.assert_allclose(found, expected[::-1], rtol=1e-4, atol=1e-5)


# -- true worlds as models ---------------------------------------------------------------------------------------------

OBSERVED = ["Pendulum-v1", "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"]
OBSERVED = [f"jax/{name}" for name in (*OBSERVED, "CartPoleContinuous-v0", "CartPoleSwingUp-v0", "Cliff-v0")]


@pytest.mark.parametrize("name", OBSERVED)
def test_a_world_that_shows_its_state_is_the_model_of_itself(name):
    """From an observation alone, the model plays on as the world does."""
    world = adv.make(name)
    spec = adv.Spec(world.observation_space, world.action_space, world=world, action_units="raw")
    model = true_model(spec, "Nothing helps")
    state, obs = world.reset(KEY)
    step, imagine = jax.jit(world.step), jax.jit(model.step)
    space = spec.action_space
    space.seed(0)
    for t in range(30):
        action, key = jnp.asarray(space.sample()), jax.random.key(t)
        begun = model.begin(jax.tree.map(lambda x: x[None], obs))
        imagined = imagine(begun, action[None], key)
        state, obs, reward, terminated = step(state, action, jax.random.split(key, 1)[0])
        np.testing.assert_allclose(model.observation(imagined.state)[0], obs, atol=2e-5)
        np.testing.assert_allclose(imagined.reward[0], reward, atol=2e-5)
        assert bool(imagined.terminated[0]) == bool(terminated)
        if terminated:
            break


def test_actions_are_in_units_of_the_bounds():
    spec = adv.Spec(Pendulum().observation_space, Pendulum().action_space, world=Pendulum())
    model, obs = true_model(spec, "Nothing helps"), jnp.array([[1.0, 0.0, 0.0]])
    after = model.step(model.begin(obs), jnp.array([[0.5]]), KEY)
    np.testing.assert_allclose(after.reward, -0.001, rtol=1e-5)  # a torque of 1 of 2
    assert planned_actions(spec) == PlannedActions(low=(-1.0,), high=(1.0,))
    assert planned_actions(dataclasses.replace(spec, action_units="raw")).high == (2.0,)


@pytest.mark.parametrize(
    "world", [None, adv.make("jax/StatelessPendulum-v1"), adv.make("jax/Catch-v0")], ids=str
)
def test_a_world_that_hides_its_state_is_no_model(world):
    seen = Pendulum().observation_space if world is None else world.observation_space
    with pytest.raises(
        ValueError, match=r"not possible: the environment (has no|does not).*Learn a model, or use"
    ):
        true_model(adv.Spec(seen, Pendulum().action_space, world=world), "Learn a model")


def test_spaces_that_no_planner_chooses_from():
    unbounded = spaces.Box(-np.inf, np.inf, (2,))
    for space in (unbounded, spaces.MultiDiscrete([2, 3])):
        with pytest.raises(ValueError, match="planner chooses among Discrete actions, or within the bounds"):
            planned_actions(adv.Spec(Pendulum().observation_space, space))


def test_a_force_of_any_size_moves_the_cart_as_full_force_does():
    state = jnp.array([0.1, -0.2, 0.05, 0.3])
    for action, force in ((0, -1.0), (1, 1.0)):
        expected = CartPole().step(state, jnp.int32(action), KEY)
        found = continuous_cart_pole().step(state, jnp.array([force]), KEY)
        for left, right in zip(expected, found, strict=True):
            np.testing.assert_array_equal(left, right)


def test_the_pole_swings_as_a_pendulum_and_energy_is_kept():
    """Without a force, in small steps: kinetic and potential energy of cart and pole stay, and the reward is height."""
    cart = CartPole(continuous=True, time_step=1e-4)
    world = CartPoleSwingUp(cart)
    state = jnp.array([0.0, 0.3, 2.0, -1.0])

    def energy(state):
        _, v, theta, omega = np.asarray(state, float)
        m, half = cart.pole_mass, cart.half_length
        pole = 0.5 * m * (v * v + 2 * half * v * omega * np.cos(theta) + 4 / 3 * half * half * omega * omega)
        return 0.5 * cart.cart_mass * v * v + pole + m * cart.gravity * half * np.cos(theta)

    before = energy(state)
    after, _ = jax.lax.scan(lambda s, _: (world.step(s, jnp.zeros(1), KEY)[0], None), state, length=5000)
    np.testing.assert_allclose(energy(after), before, rtol=5e-3)
    _, obs, reward, terminated = world.step(state, jnp.zeros(1), KEY)
    np.testing.assert_allclose(reward, (1 + obs[2]) / 2, rtol=1e-6)
    assert not terminated
    _, _, reward, terminated = world.step(jnp.array([2.4, 5.0, 0.0, 0.0]), jnp.zeros(1), KEY)
    assert terminated and reward == 0
