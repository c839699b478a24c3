"""Names of flags that users of stable-baselines3 and CleanRL type, and ours for them."""

from __future__ import annotations

from collections.abc import Sequence, Set

# Names that mean the same, with `_` for `-`. A name is taken for the first of ours that the command has.
ALIASES = {
    "total_timesteps": "timesteps n_timesteps num_timesteps total_steps num_steps_total max_steps frames total_frames",
    "learning_rate": "lr alpha step_size",
    "n_steps": "num_steps rollout_length horizon",
    "n_epochs": "update_epochs epochs num_epochs noptepochs",
    "batch_size": "minibatch_size",
    "num_envs": "n_envs nenvs num_environments",
    "gae_lambda": "lam lambda gae_lam",
    "lam": "lambda gae_lambda trace_decay",
    "gamma": "discount discount_factor",
    "clip_range": "clip_coef cliprange clip clip_param epsilon_clip",
    "ent_coef": "entropy_coef entropy_coeff entropy_weight",
    "vf_coef": "value_coef vf_coeff value_loss_coef",
    "max_grad_norm": "grad_clip clip_grad_norm",
    "hidden": "net_arch hidden_sizes hidden_layers",
    "activation": "activation_fn",
    "eval_every": "eval_freq eval_interval",
    "eval_episodes": "n_eval_episodes num_eval_episodes",
    "checkpoint_every": "save_freq checkpoint_freq save_interval",
    "episodes": "n_episodes num_episodes n_eval_episodes eval_episodes",
    "workers": "num_workers n_workers n_cpu",
    "buffer_size": "replay_size memory_size",
    "planning_steps": "n_planning num_planning_steps",
    "frame_stack": "n_stack num_stack",
    "env": "env_id environment",
    "out": "log_dir logdir save_path output folder",
    "quiet": "silent",
    "seed": "random_seed",
    "video": "video_path save_video record",
}
# What has no flag of the same meaning: what to do instead.
INSTEAD = {
    "num_minibatches": "use --batch-size, the size of a minibatch: n_steps * num_envs / number of minibatches",
    "nminibatches": "use --batch-size, the size of a minibatch: n_steps * num_envs / number of minibatches",
    "anneal_lr": "use --learning-rate linear:3e-4, which falls from 3e-4 to 0",
    "lr_schedule": "use --learning-rate linear:3e-4, which falls from 3e-4 to 0",
    "norm_adv": "use --normalize-advantage minibatch, batch or none",
    "clip_vloss": "use --clip-range-vf 0.2",
    "policy_kwargs": "use --hidden 64 64, --activation and --network",
    "policy": "use --hidden for the sizes of layers, or --network gru or lstm; pictures get a CNN by themselves",
    "algo": "the algorithm is the first word: advantage train ppo CartPole-v1",
    "env": "the environment is the second word: advantage train ppo CartPole-v1",
    "env_id": "the environment is the second word: advantage train ppo CartPole-v1",
    "verbose": "a run shows its progress unless --quiet is given",
    "progress_bar": "a run shows its progress unless --quiet is given",
    "tensorboard_log": "TensorBoard files are written into the run folder; --no-tensorboard writes none",
    "track": "metrics are in the run folder, as progress.csv and for TensorBoard",
    "capture_video": "film a trained agent: advantage enjoy RUN --video play.mp4",
    "cuda": "use --device gpu or --device cpu",
    "render": "watch a trained agent: advantage enjoy RUN",
    "load": "continue a run: advantage resume RUN",
    "use_sde": "there is no state-dependent exploration; --action-spread and --log-std-init set the spread of actions, "
    "and --noise-correlation of sac makes their noise last",
    "n_seeds": "use --num-seeds",
    "deterministic": "actions are deterministic unless --stochastic is given",
}


def with_our_names(arguments: Sequence[str], known: Set[str]) -> list[str]:
    """The arguments, with our names for flags that the command does not know by theirs.

    Args:
        arguments: what follows the command's name.
        known: names of the command's flags, with `_` for `-`.

    Raises:
        ValueError: a flag of another library without a counterpart; the message says what to do instead.
    """
    return [_with_our_name(argument, known) for argument in arguments]


def _with_our_name(argument: str, known: Set[str]) -> str:
    flag, equals, value = argument.partition("=")
    name = flag.removeprefix("--").removeprefix("no-").replace("-", "_")
    if not flag.startswith("--") or name in known or not name:
        return argument
    for ours, theirs in ALIASES.items():
        if ours in known and name in theirs.split():
            negation = "no-" * flag.startswith("--no-")
            return f"--{negation}{ours.replace('_', '-')}{equals}{value}"
    if name in INSTEAD:
        raise ValueError(f"There is no flag {flag}; {INSTEAD[name]}.")
    return argument
