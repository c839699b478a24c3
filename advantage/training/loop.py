"""The training loop: iterate, report, evaluate and save until the budget is spent. It is the same for all drivers."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from advantage.agent import Agent, Saved
from advantage.algorithms.clock import with_budget
from advantage.algorithms.playable import Playable
from advantage.algorithms.registry import algorithm_name, plans, spec_of
from advantage.drivers.make_driver import Given, make_driver
from advantage.drivers.records import RecordFault, check_records
from advantage.environments.environment import Environment
from advantage.environments.make import rules_of
from advantage.environments.version import version_of
from advantage.replay.left_out import without_replay
from advantage.runs.checkpoint import CheckpointError
from advantage.runs.compilation import COMPILE_CLOCK
from advantage.runs.folder import RunFolder, describe_host, write_config
from advantage.runs.interrupt import Interrupt
from advantage.runs.log import Logger
from advantage.runs.patience import saying
from advantage.runs.plot import results_are_missing
from advantage.runs.recorded import config_facts
from advantage.training.announcements import beginning, farewell, finished_before
from advantage.training.callbacks import Ended, Evaluated, Listeners, Started
from advantage.training.early_stopping import reason_of_run
from advantage.training.evaluating import Films, evaluate_and_say
from advantage.training.first_state import draw_first_state, spaces_of
from advantage.training.intervals import crossed, next_multiple
from advantage.training.journal import Journal, recent_kinds
from advantage.training.nonfinite import NonFiniteUpdate, find_nonfinite, remedy
from advantage.training.options import Options, modifications_of, processes_of
from advantage.training.recorded_data import begin_with, recorded_data
from advantage.training.reporting import Reporter
from advantage.training.results import write_pictures
from advantage.training.rewind import rewind_to
from advantage.training.run_config import claim_folders, run_config
from advantage.training.threads import take_threads, threads_that_pay
from advantage.training.two_players import refuse_two_players
from advantage.types import Algorithm, Iterated, Pytree


@dataclasses.dataclass(frozen=True)
class Training:
    """What is trained (`members`: each run's own settings, if they differ), where it is evaluated, who is informed."""

    algorithm: Playable
    environment: Environment
    eval_environment: Environment
    options: Options
    listeners: Listeners
    reporter: Reporter
    members: Sequence[Algorithm] = ()


class Loop:
    """The state, the driver and the journals of one seed, or of several that one driver runs side by side.

    Attributes:
        iteration, step: updates and environment steps so far.
        state: the algorithm's state of all seeds, in the driver's own form.
    """

    def __init__(self, training: Training, seeds: list[int]):
        self.training, self.seeds, self.started = training, seeds, time.perf_counter()
        self.algorithm, self.environment = training.algorithm, training.environment
        self.algorithms: list[Playable] = [*training.members] or [training.algorithm] * len(seeds)
        self.options, self.say = training.options, training.reporter.message
        self.listeners, self.films = training.listeners, Films(training.eval_environment, self.say)
        self.configs: list[dict[str, Any]] = []
        with saying(f"Making {self.environment.name}.", self.say):
            spaces = spaces_of(self.environment)
        refuse_two_players(self.algorithm, self.environment)
        options = self.options
        self.spec = spec_of(
            self.algorithm,
            *spaces,
            num_envs=options.num_envs,
            total_timesteps=options.total_timesteps,
            observe_last=options.observe_last,
            frame_stack=options.frame_stack,
            world=rules_of(self.environment) if plans(self.algorithm) else None,
        )
        take_threads(threads_that_pay(self.algorithm, self.spec), self.say)
        self.iteration, self.step, self.saved_step = 0, 0, -1
        self.has_iterated, self.interrupt = False, Interrupt(self.say, self._is_saved, self._farewell)
        self.was_finished = self.is_complete = False  # with this budget, before it was resumed
        self.journals: list[Journal] = []
        self.state: Pytree = None
        data = recorded_data(options.data, self.algorithm, self.spec)
        first = draw_first_state(self.algorithm, self.spec, seeds, self.say, training.members)
        self.first = begin_with(data, self.algorithm, self.spec, first, self.say)
        self.driver = make_driver(
            self.algorithm,
            self.environment,
            self.spec,
            seeds=seeds,
            processes=processes_of(options),
            stopped=self._is_interrupted,
            given=Given(options.log_info, training.members, data),
        )

    def create_folders(self, paths: Sequence[Path | None], root: Path, locks: contextlib.ExitStack) -> None:
        """Begin the first episodes, make and lock the run folders (`locks` releases them), and write their configs."""
        with saying("Starting the environments.", self.say):
            self.state = self.driver.start(self.first.state, self.first.world_keys)
        self.first = self.first._replace(state=None)  # it may be large
        host = describe_host(version_of(self.environment))
        for seed, algorithm in zip(self.seeds, self.algorithms, strict=True):
            config = run_config(algorithm, self.environment, self.spec, self.options, seed)
            self.configs.append(config | {"host": host})
        folders = claim_folders(paths, root, self.configs, locks)
        for folder, config, seed in zip(folders, self.configs, self.seeds, strict=True):
            write_config(folder, config)
            logger = Logger(folder, tensorboard=self.options.tensorboard)
            self.journals.append(Journal(folder, seed, logger, config_facts(config)))

    def restore(self, folder: RunFolder, config: dict[str, Any], saved: Saved) -> None:
        """Restore everything from a checkpoint of the folder.

        Raises:
            CheckpointError: the checkpoint's records, or a log, are damaged; nothing was changed.
        """
        metadata, total = saved.metadata, self.options.total_timesteps
        self.step, self.iteration = metadata["step"], metadata["iteration"]
        own = {name: x for name, x in saved.records.items() if name.startswith("recent/")}
        rest = {name: x for name, x in saved.records.items() if name not in own}
        try:
            check_records(own, recent_kinds(own))
            state = with_budget(saved.state, total)
            self.state, notices = self.driver.restore(state, self.first.world_keys, rest)
        except RecordFault as error:
            raise CheckpointError(f"{folder.path}: checkpoint of step {self.step:_}: {error}.") from None
        self.first = self.first._replace(state=None)
        rewind_to(folder, saved.checkpoint, self.step, self.say)
        self.was_finished = metadata.get("finished") == total
        evaluated = metadata["evaluated"]
        self.is_complete = self._is_finished and not (self._evaluates and evaluated < self.step)
        for name in ("total_timesteps", "stop_at_return", "patience"):
            config["training"][name] = getattr(self.options, name)
        write_config(folder, config)
        logger = Logger(
            folder,
            tensorboard=self.options.tensorboard and not self.is_complete,
            resume_step=self.step,
            evaluated=evaluated,
            tallies=metadata.get("logs", {}),
        )
        for notice in (*notices, *logger.faults):
            self.say(notice)
        self.journals.append(Journal(folder, self.seeds[0], logger, config_facts(config)))
        self.journals[0].restore(own, metadata)
        self.configs.append(config)

    def run(self) -> bool:
        """Iterate until the budget is spent, or a callback or a signal stops the run; returns whether it has finished.

        Raises:
            NonFiniteUpdate: an update gave a number that is not finite.
            KeyboardInterrupt, SystemExit: a signal stopped the run; everything was saved.
        """
        if self.is_complete:
            folder, unit = self.journals[0].folder, self.driver.facts.unit
            self.say(finished_before(folder.path, self.step, self.options.total_timesteps, unit))
            if results_are_missing(folder):
                self._write_results()
            return True
        begins = beginning(
            self.algorithm,
            self.spec,
            self.configs,
            folders=self._folders,
            driver=self.driver.facts,
            step=self.step,
        )
        self.training.reporter.begin(begins)
        if not self.step:
            self._save()  # a run that is killed early can be resumed too
        with self.interrupt, self._last_words(), self._telling_start_and_end():
            self._iterate()
            finished = self._is_finished
            self._save()
            if finished and not self._is_interrupted() and self.journals[0].evaluated < self.step:
                self._evaluate()
                self._save()
        self._write_results()
        self.training.reporter.end()
        if self._is_interrupted():
            self.say(self._farewell())
            if self.interrupt.signal != signal.SIGINT:
                raise SystemExit(128 + (self.interrupt.signal or 0))
            raise KeyboardInterrupt
        return finished

    def _iterate(self) -> None:
        options, total = self.options, self.options.total_timesteps
        checkpoint_every = options.checkpoint_every or max(1, total // 10)
        begun, first_step, compiled_before = time.perf_counter(), self.step, COMPILE_CLOCK.seconds
        stopped = self._stops_early()
        while not (self._is_finished or stopped or self._is_interrupted()):
            breaks = (checkpoint_every, options.eval_every, options.video_every)
            until = min(total, *(next_multiple(self.step, every) for every in breaks))
            with self._saying_what_compiles():
                result = self.driver.iterate(
                    self.state, self.first.run_keys, self.driver.span(self.iteration, self.step, until)
                )
            self._refuse_nonfinite(result)
            self.state, before, iteration = result.state, self.step, self.iteration
            if not len(result.steps):  # a search whose generation was interrupted
                continue
            self.step += int(result.steps[-1])
            self.iteration += int(result.iterations[-1])
            compiling = COMPILE_CLOCK.seconds - compiled_before
            now = time.perf_counter()
            times = {
                "time/fps": (self.step - first_step) / max(now - begun - compiling, 1e-9),
                "time/elapsed": now - self.started,
                "time/compile": compiling,
            }
            stopped = self._report(result, iteration, before, times)
            evaluating = crossed(before, self.step, options.eval_every) and self.step < total
            if evaluating:
                stopped = self._evaluate() or self._stops_early() or stopped
            if crossed(before, self.step, options.video_every):
                self._film()
            if crossed(before, self.step, checkpoint_every) or evaluating:
                self._save()

    def _report(self, result: Iterated, iteration: int, step: int, times: dict[str, float]) -> bool:
        """Log the rows and inform the reporter and the callbacks; returns whether a callback stops the run."""
        stopped, total = False, self.options.total_timesteps
        for place, journal in enumerate(self.journals):
            stopped |= self.listeners.episodes(journal.seed, result.episodes[place])
            for progress in journal.rows(
                place, result, iteration=iteration, step=step, total=total, times=times
            ):
                if place == 0:
                    self.training.reporter.update(progress)
                stopped |= self.listeners.iteration(progress)
        return stopped

    def _refuse_nonfinite(self, result: Iterated) -> None:
        """Raises NonFiniteUpdate if a metric or parameter is not finite; the new state is then discarded."""
        found = find_nonfinite(result, len(self.seeds))
        if found is None:
            return
        step, iteration = (
            self.step + int(result.steps[found.row]),
            self.iteration + int(result.iterations[found.row]),
        )
        last = self.journals[found.place].folder.last
        raise NonFiniteUpdate(
            f"The update after step {step:_} (iteration {iteration - 1}, seed {self.seeds[found.place]}) gave a value "
            f"that is not finite: {found.names}. It was not applied; the last checkpoint is {last}. "
            f"{remedy(self.algorithm)}"
        )

    def _evaluate(self) -> bool:
        """Evaluate the current agents on the episodes that `adv.evaluate` plays with the run's seed.

        Returns whether a callback stops the run.
        """
        episodes, stopped = self.options.eval_episodes, False
        if not self._evaluates:
            if episodes:
                self.say("Not evaluated: a vector environment needs a separate eval_environment.")
            return False
        for place, journal in enumerate(self.journals):
            agent = self._agent(place)
            who = f"seed {journal.seed}, " if len(self.journals) > 1 else ""
            result = evaluate_and_say(
                agent,
                self.training.eval_environment,
                episodes=episodes,
                seed=journal.seed,
                who=who,
                say=self.say,
            )
            journal.evaluate(self.step, result)
            stopped |= self.listeners.evaluation(Evaluated(journal.seed, self.step, result, agent))
        return stopped

    def _stops_early(self) -> bool:
        """Whether the evaluations of every seed say that the run stops before its budget is spent."""
        reasons = [reason_of_run(journal.folder, self.options) for journal in self.journals]
        if None in reasons:
            return False
        self.say(f"Stopping at step {self.step:_}: {reasons[0]}.")
        return True

    def _film(self) -> None:
        """Film one episode of each seed's agent."""
        for place, journal in enumerate(self.journals):
            self.films.add(self._agent(place), journal.folder, journal.seed)

    def _agent(self, place: int) -> Agent:
        """The agent of one seed."""
        state = self.driver.state_of(self.state, place)
        return Agent(
            self.algorithms[place],
            state,
            self.spec,
            self.environment.name,
            self.step,
            modifications=modifications_of(self.options),
        )

    def _save(self) -> None:
        """Checkpoint every seed."""
        finished = self.options.total_timesteps if self._is_finished else None
        metadata = {
            "algorithm": algorithm_name(self.algorithm),
            "environment": self.environment.name,
            "iteration": self.iteration,
            "step": self.step,
            "finished": finished,
        }
        for place, journal in enumerate(self.journals):
            state, records = self.driver.state_of(self.state, place), self.driver.records(place)
            state = state if self.options.keep_replay else without_replay(state)
            journal.save(self.step, state, records, metadata, self.options.keep_checkpoints)
        self.saved_step = self.step

    def _write_results(self) -> None:
        """Write the learning curve, a policy in a finite world, predictions of a model; say how the run ended."""
        conclusion, unit = self.driver.conclusion(self.step), self.driver.facts.unit
        for place, journal in enumerate(self.journals):
            report = write_pictures(journal, self._agent(place), self.environment, unit=unit, say=self.say)
            if report is not None and place == 0:
                conclusion = report.lines(journal.evaluation, conclusion)
        for line in conclusion:
            self.say(line)

    def close(self) -> None:
        for journal in self.journals:
            journal.logger.close()
        self.driver.close()
        self.training.reporter.end()

    @property
    def _folders(self) -> list[Path]:
        return [journal.folder.path for journal in self.journals]

    @property
    def _is_finished(self) -> bool:
        """Whether the budget is spent or the driver has finished."""
        return self.step >= self.options.total_timesteps or self.driver.finished or self.was_finished

    @property
    def _evaluates(self) -> bool:
        return self.options.eval_episodes > 0 and self.training.eval_environment.kind != "vector"

    def _is_saved(self) -> bool:
        """Whether the last checkpoint holds everything that was learned."""
        return self.saved_step == self.step

    def _is_interrupted(self) -> bool:
        return self.interrupt.signal is not None

    def _farewell(self) -> str:
        return farewell(self._folders, self.step, self.environment, modifications_of(self.options))

    def _saying_what_compiles(self) -> contextlib.AbstractContextManager[None]:
        """A context that says that the first call of a driver compiles, if that takes long."""
        if self.has_iterated:
            return contextlib.nullcontext()
        self.has_iterated = True
        return saying("Compiling the programs of this run and taking its first steps.", self.say)

    @contextlib.contextmanager
    def _telling_start_and_end(self) -> Iterator[None]:
        """A context that informs the callbacks of the beginning and, after any error too, of the end."""
        self.listeners.start(
            Started(self.seeds, self.configs, self._folders, self.step, self.options.total_timesteps)
        )
        try:
            yield
        finally:
            self.listeners.end(Ended(self.seeds, self._folders, self.step, self._is_finished))

    @contextlib.contextmanager
    def _last_words(self) -> Iterator[None]:
        """A context that says, after any error, from where the run can be resumed."""
        try:
            yield
        except Exception:
            for journal in self.journals:
                with contextlib.suppress(OSError):  # a full disk has already been reported
                    journal.logger.flush()
                self.say(
                    f"The run stopped. {journal.folder.last} is the checkpoint of step {journal.saved_step:_}."
                )
            raise
