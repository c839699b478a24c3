"""Settings of every test, and of every process that a test starts; they must precede the import of JAX."""

import gc
import itertools
import os
import signal
from pathlib import Path

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["SDL_VIDEODRIVER"] = "dummy"  # pygame draws without a screen
os.environ["SDL_AUDIODRIVER"] = "dummy"
os.environ["MPLBACKEND"] = "Agg"

# Half of the time of these tests is compilation, so the compiler does not optimise; `make test-slow` runs the slow
# tests, and the tests of the promises, on optimised programs, which users have.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", QUICK)

# Compiled programs are kept between test runs.
_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "advantage" / "tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
from jax.experimental.key_reuse import _core as key_reuse  # noqa: E402

# Using a key twice is an error in the tests' own process if programs are optimised. The quick tests do without, because
# counting takes an eighth of their time and `test_keys.py` checks every algorithm's program. JAX 0.10 counts the
# transpose of an array of keys, which vmap over a scan makes, as a use; this line corrects it. Indexing keys with a
# traced index, stacking them, and `jnp.where` on them count as uses too: wrap intended ones in
# `with jax.debug_key_reuse(False)`.
key_reuse.key_reuse_signatures[jax.lax.transpose_p] = key_reuse.KeyReuseSignature(key_reuse.Forward(0, 0))
jax.config.update("jax_debug_key_reuse", os.environ["XLA_FLAGS"] != QUICK)


# A shell starts background jobs with Ctrl-C ignored, and their child processes inherit this.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes many objects; few of them need a full garbage collection.
gc.set_threshold(200_000, 50, 1000)

# Tests that repeat a quicker test on another path or with other numbers, by name: they are marked as slow.
REPEATS = (
    "test_action_units.py::test_on_the_device_training_and_evaluation_know_the_units_too[cem",
    "test_actors.py::test_actions_come_as_often_as_their_probabilities_say[ppo",
    "test_bandits.py::test_promise_11_a_stopped_run_goes_on_to_the_same_numbers[algorithm0",
    "test_chunks.py::test_an_update_with_large_minibatches",
    "test_cli.py::test_a_live_line_on_a_terminal",
    "test_cli.py::test_a_run_goes_on_without_its_output[> /dev/full",
    "test_cli.py::test_a_run_goes_on_without_its_output[>&--",
    "test_cli.py::test_memory_and_frame_stacks_through_every_command[flags0-CartPole",
    "test_cli.py::test_memory_and_frame_stacks_through_every_command[flags1-jax/",
    "test_cli.py::test_several_seeds",
    "test_cli.py::test_train_eval_enjoy_resume[jax/",
    "test_device_driver.py::test_iterations_a_call_change_no_bit[counts0",
    "test_device_driver.py::test_iterations_a_call_change_no_bit[counts1",
    "test_device_driver.py::test_promise_2_host_and_device_agree[actions that are choices",
    "test_device_driver.py::test_several_seeds_are_each",
    "test_dpg.py::test_a_stopped_run_goes_on_to_the_same_numbers",
    "test_dpg.py::test_both_drivers_and_every_seed_learn_the_same",
    "test_dpg.py::test_every_option_of_learning",
    "test_dpg.py::test_seeds_side_by_side",
    "test_dqn.py::test_a_stopped_run_goes_on_to_the_same_numbers_its_target_included[host",
    "test_dyna.py::test_promise_11_a_stopped_run_goes_on_to_the_same_numbers[algorithm1",
    "test_dyna.py::test_steps_per_episode_in_the_maze[0",
    "test_dyna.py::test_steps_per_episode_in_the_maze[50",
    "test_dyna.py::test_the_bonus_finds_the_way",
    "test_dynamic_programming.py::test_a_run_that_is_resumed_ends_as_one_that_was_not",
    "test_dynamic_programming.py::test_blocks_and_cores_change_nothing[BackwardInduction",
    "test_examples.py::test_a_callback_stops_early",
    "test_examples.py::test_schedules_follow_progress",
    "test_impala.py::test_both_drivers_and_every_seed_learn_the_same",
    "test_impala.py::test_the_actor_is_the_one_of_so_many_updates_ago_with_the_statistics_of_then[0",
    "test_impala.py::test_updates_equal_those_of_a_second_implementation[{'correction': 'ignored'",
    "test_laboratory.py::test_any_finite_world_and_a_trained_policy",
    "test_learning_by_step.py::test_promise_2_host_and_device_learn_the_same[one environment",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[a2c-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[a2c-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[actor-critic-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[actor-critic-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[ars-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[ars-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[cma-es-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[cma-es-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[es-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[es-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[finite-differences-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[finite-differences-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[ga-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[ga-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[impala-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[npg-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[npg-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[off-policy-ac-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[off-policy-ac-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[off-policy-pg-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[off-policy-pg-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[pattern-search-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[pattern-search-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[reinforce-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[reinforce-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[trpo-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[trpo-kind",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[vpg-None",
    "test_masked_actions.py::test_promise_10_no_policy_takes_a_masked_action[vpg-kind",
    "test_metric_rows.py::test_rows_show_what_was_measured[rollouts-host",
    "test_metric_rows.py::test_rows_show_what_was_measured[short iterations-device",
    "test_metric_rows.py::test_rows_show_what_was_measured[short iterations-host",
    "test_metric_rows.py::test_rows_show_what_was_measured[single steps-device",
    "test_monte_carlo_control.py::test_gymnasiums_blackjack",
    "test_monte_carlo_control.py::test_no_option_is_dead",
    "test_monte_carlo_control.py::test_promise_2_both_drivers_learn_the_same_and_a_resumed_run_too[control",
    "test_monte_carlo_control.py::test_promise_2_both_drivers_learn_the_same_and_a_resumed_run_too[exploring",
    "test_monte_carlo_control.py::test_the_first_action_of_an_episode",
    "test_normalisation.py::test_a_hundred_million_samples_leave_the_mean_and_the_variance_right[True",
    "test_off_policy_actor_critic.py::test_seeds_side_by_side",
    "test_off_policy_pg.py::test_both_drivers_and_every_seed_learn_the_same",
    "test_planning.py::test_an_interrupted_solver_goes_on_bit_for_bit[solver0",
    "test_planning.py::test_every_solver_is_trained_like_an_agent[gauss-seidel",
    "test_planning.py::test_every_solver_is_trained_like_an_agent[modified",
    "test_planning.py::test_every_solver_is_trained_like_an_agent[policy-iteration",
    "test_planning.py::test_every_solver_is_trained_like_an_agent[prioritised",
    "test_policies.py::test_a_cnn_gives_the_same_features_in_numpy_and_in_jax_and_every_input_counts[odd",
    "test_policy_gradient.py::test_every_float_makes_a_difference_and_compiles_nothing[VPG",
    "test_ppo.py::test_promise_8_updates_per_transition_do_not_depend_on_the_number_of_environments[1]",
    "test_ppo.py::test_promise_8_updates_per_transition_do_not_depend_on_the_number_of_environments[4",
    "test_ppo.py::test_the_log_ratios_of_the_batch",
    "test_ppo.py::test_the_policy_learns_what_each_observation_asks_for",
    "test_ppo.py::test_two_updates_equal_those_of_a_second_implementation[no penalty",
    "test_precise_sum.py::test_evaluation_reports_the_sum_of_many_small_rewards[search",
    "test_presets.py::test_presets_are_switched_off",
    "test_presets.py::test_the_command_line_takes_the_preset",
    "test_q_prop.py::test_a_stopped_run_goes_on_to_the_same_numbers_its_ring_included[device",
    "test_q_prop.py::test_both_drivers_and_every_seed_learn_the_same",
    "test_q_prop.py::test_promise_1_a_truncated_step",
    "test_q_prop.py::test_seeds_side_by_side",
    "test_recurrent.py::test_every_method_learns_on_both_drivers_and_resumes_in_the_middle_of_an_episode[a2c",
    "test_recurrent.py::test_every_method_learns_on_both_drivers_and_resumes_in_the_middle_of_an_episode[actor-critic",
    "test_recurrent.py::test_every_method_learns_on_both_drivers_and_resumes_in_the_middle_of_an_episode[impala",
    "test_recurrent.py::test_every_method_learns_on_both_drivers_and_resumes_in_the_middle_of_an_episode[npg",
    "test_recurrent.py::test_every_method_learns_on_both_drivers_and_resumes_in_the_middle_of_an_episode[off-policy-pg",
    "test_recurrent.py::test_every_method_learns_on_both_drivers_and_resumes_in_the_middle_of_an_episode[reinforce",
    "test_recurrent.py::test_every_method_learns_on_both_drivers_and_resumes_in_the_middle_of_an_episode[trpo",
    "test_recurrent.py::test_every_method_learns_on_both_drivers_and_resumes_in_the_middle_of_an_episode[vpg",
    "test_recurrent.py::test_networks_of_other_libraries_remember[linen",
    "test_recurrent.py::test_networks_of_other_libraries_remember[nnx",
    "test_recurrent.py::test_one_seed_alone_and_among_others[a2c",
    "test_recurrent.py::test_one_seed_alone_and_among_others[actor-critic",
    "test_recurrent.py::test_one_seed_alone_and_among_others[impala",
    "test_recurrent.py::test_one_seed_alone_and_among_others[npg",
    "test_recurrent.py::test_one_seed_alone_and_among_others[off-policy-pg",
    "test_recurrent.py::test_one_seed_alone_and_among_others[reinforce",
    "test_recurrent.py::test_one_seed_alone_and_among_others[trpo",
    "test_recurrent.py::test_one_seed_alone_and_among_others[vpg",
    "test_recurrent.py::test_workers_change_nothing",
    "test_resume.py::test_a_larger_budget[jax/",
    "test_resume.py::test_a_pickle_bomb_in_every_file[0",
    "test_resume.py::test_a_signal_saves_and_says_how_to_go_on[SIGTERM",
    "test_resume.py::test_killed_at_any_moment[jax/",
    "test_resume.py::test_stopped_again_and_again",
    "test_resume.py::test_stopped_at_every_step_of_every_checkpoint[point-jax/",
    "test_resume.py::test_stopped_at_every_step_of_every_checkpoint[point-noisy",
    "test_resume.py::test_stopped_at_every_step_of_every_checkpoint[save_checkpoint-noisy",
    "test_resume.py::test_stopped_by_a_callback[1-jax/",
    "test_resume.py::test_stopped_by_a_callback[3",
    "test_retrace_ac.py::test_a_stopped_run_goes_on_to_the_same_numbers_its_buffer_included[device",
    "test_retrace_ac.py::test_every_option_of_learning",
    "test_retrace_ac.py::test_seeds_side_by_side",
    "test_run_lock.py::test_a_cell_that_somebody_writes_fails_by_name_and_runs_the_next_time[begun",
    "test_run_lock.py::test_a_cell_that_somebody_writes_fails_by_name_and_runs_the_next_time[resumed",
    "test_run_lock.py::test_promise_17_of_two_starts_with_one_path_one_trains[False",
    "test_sac.py::test_a_stopped_run_goes_on_to_the_same_numbers_its_buffer_included[device",
    "test_sac.py::test_at_a_fixed_temperature",
    "test_sac.py::test_both_drivers_and_every_seed_learn_the_same",
    "test_sac.py::test_every_option_of_learning",
    "test_sac.py::test_seeds_side_by_side",
    "test_short_iterations.py::test_promise_2_host_and_device_agree_on_the_rows",
    "test_short_iterations.py::test_the_numbers_are_those_of_one_iteration_at_a_time[compiled",
    "test_staging.py::test_ppo_acts_in_numpy_as_in_jax[float64",
    "test_staging.py::test_ppo_acts_in_numpy_as_in_jax[image",
    "test_staging.py::test_ppo_acts_in_numpy_as_in_jax[large image",
    "test_svg.py::test_a_stopped_run_goes_on_to_the_same_numbers",
    "test_svg.py::test_both_drivers_and_every_seed_learn_the_same",
    "test_svg.py::test_every_option_of_learning",
    "test_svg.py::test_seeds_side_by_side",
    "test_svg.py::test_the_gradient_is_that_of_the_cost_in_a_linear_quadratic_world[0",
    "test_tabular_control.py::test_promise_11_a_stopped_run_goes_on_to_the_same_numbers",
    "test_tabular_control.py::test_promise_2_host_and_device_learn_the_same_and_evaluation_works",
    "test_tabular_prediction.py::test_a_truncated_step_bootstraps[MonteCarlo",
    "test_tabular_prediction.py::test_episodes_are_put_together_again[windows0",
    "test_tabular_prediction.py::test_promise_2_both_drivers_learn_the_same_and_a_resumed_run_too[MonteCarlo",
    "test_tabular_prediction.py::test_seeds_side_by_side_are_those_alone[MonteCarlo",
    "test_tabular_prediction.py::test_seeds_side_by_side_are_those_alone[TD",
    "test_tabular_prediction.py::test_the_random_walk_on_the_device_has_its_exact_values[MonteCarlo",
    "test_tabular_prediction.py::test_where_rollouts_are_cut_does_not_matter[MonteCarlo",
    "test_td3.py::test_a_stopped_run_goes_on_to_the_same_numbers_its_buffer_included[device",
    "test_td3.py::test_both_drivers_and_every_seed_learn_the_same",
    "test_td3.py::test_every_option_of_learning",
    "test_td3.py::test_seeds_side_by_side",
    "test_td3.py::test_the_minimum_of_two_critics",
    "test_td3.py::test_workers_and_both_drivers_explore_alike",
    "test_thread_pools.py::test_large_inputs_begin_to_train_on_a_pool_of_any_size[2",
    "test_thread_pools.py::test_large_inputs_begin_to_train_on_a_pool_of_any_size[3",
    "test_thread_pools.py::test_large_inputs_begin_to_train_on_a_pool_of_any_size[4",
    "test_training.py::test_a_longer_evaluation_begins_with_a_shorter[jax/Pendulum",
    "test_training.py::test_a_network_of_your_own",
    "test_training.py::test_promise_11_schedules_follow_the_global_step",
    "test_training.py::test_promise_14_numbers_do_not_depend_on_who_watches[jax/",
    "test_training.py::test_promise_14_numbers_do_not_depend_on_workers",
    "test_training.py::test_several_seeds_are_each_what_they_are_alone[jax/",
    "test_truncation_probe.py::test_an_end_is_an_end[host",
    "test_truncation_probe.py::test_the_action_counts[host",
    "test_truncation_probe.py::test_the_start_of_the_next_episode_is_no_successor[host",
    "test_trust.py::test_promise_16_libraries_are_the_installed_ones[-m",
    "test_vector.py::test_promise_2_sync[NEXT_STEP-copies",
    "test_vector.py::test_training_on_one",
)


# Linux allows a process 65,530 memory maps. Each compiled program takes several; beyond the limit XLA crashes.
MOST_MAPS = 40_000
_tests_run = itertools.count(1)


@pytest.fixture(autouse=True)
def few_maps_of_memory():
    """Free compiled programs before there are too many, in a process that runs hundreds of tests."""
    yield
    maps = Path("/proc/self/maps")
    if next(_tests_run) % 16 == 0 and maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if any(name in item.nodeid for name in REPEATS):
            item.add_marker(pytest.mark.slow)
