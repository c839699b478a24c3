"""Ctrl-C is answered while the main thread is in native code, and what takes long is told while it does."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from advantage.runs.interrupt import Interrupt, _Listener
from advantage.runs.patience import saying

# The main thread is in native code for minutes, where no Python handler runs.
NATIVE = "import hashlib; print('busy', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


def start(program, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )


def until(process, word):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            time.sleep(0.5)  # what follows has begun
            return
    pytest.fail(f"{word!r} never came: {lines}")


@pytest.mark.parametrize("at_once", [True, False])
def test_a_program_in_native_code_ends(at_once):
    program = f"from advantage.runs.interrupt import leaving\nwith leaving({at_once}):\n    {NATIVE}"
    with start(program) as process:
        until(process, "busy")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "Traceback" not in process.stdout.read()


INSIDE = """
from advantage.runs.interrupt import Interrupt, leaving
with leaving(), Interrupt(lambda text: print(text, flush=True), lambda: {saved}, lambda: "saved at step 7"):
    {native}
"""


def test_where_nothing_is_lost_the_first_ctrl_c_ends_a_training():
    with start(INSIDE.format(saved=True, native=NATIVE)) as process:
        until(process, "busy")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stdout.read() == "saved at step 7\n"


def test_where_something_is_lost_the_first_is_told_at_once_and_the_second_ends():
    with start(INSIDE.format(saved=False, native=NATIVE)) as process:
        until(process, "busy")
        process.send_signal(signal.SIGINT)
        until(process, "Stopping after this iteration, to save. A second Ctrl-C stops at once.")
        time.sleep(2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_sigterm_is_answered_too():
    with start(INSIDE.format(saved=True, native=NATIVE)) as process:
        until(process, "busy")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


def test_the_sigterm_of_a_parent_after_the_terminals_ctrl_c_is_no_second_wish():
    """Ctrl-C reaches an experiment and its runs; the experiment then terminates the runs, which are saving."""
    heard, said = list[int](), list[str]()
    outer = _Listener(heard.append)  # in place of `leaving`, which would end the process
    try:
        with Interrupt(said.append) as interrupt:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGTERM)
    finally:
        outer.close()
    assert interrupt.signal == signal.SIGINT
    assert heard == [signal.SIGTERM]
    assert len(said) == 1


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5, 4.0])
def test_the_command_ends_at_every_moment_of_its_start(seconds, tmp_path):
    """While it imports, draws weights, compiles; no traceback, and nothing left running."""
    program = (
        "import sys; sys.argv[1:] = ['train', 'ppo', 'CartPole-v1', '--total-timesteps', '10000000', '--out', "
        f"{str(tmp_path / 'run')!r}]\nprint('busy', flush=True)\nfrom advantage.cli import run\nrun()"
    )
    with start(program, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache")) as process:
        until(process, "busy")
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "Traceback" not in said


def test_handlers_and_pipes_are_given_back():
    gc.collect()
    before = signal.getsignal(signal.SIGINT), len(os.listdir("/proc/self/fd")), threading.active_count()
    with Interrupt(pytest.fail), Interrupt(pytest.fail):
        pass
    assert (
        signal.getsignal(signal.SIGINT),
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
    ) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_thread_that_is_not_the_main_one_leaves_signals_alone():
    before = signal.getsignal(signal.SIGINT)

    def work():
        with Interrupt(pytest.fail):
            assert signal.getsignal(signal.SIGINT) == before

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_what_takes_long_is_told_once_and_what_does_not_is_not():
    said = []
    with saying("slow", said.append, after=0.01):
        time.sleep(0.2)
    with saying("quick", said.append, after=30):
        pass
    assert said == ["slow"]
    with pytest.raises(KeyError), saying("broken", said.append, after=30):
        raise KeyError
    assert [
        t for t in threading.enumerate() if isinstance(t, threading.Timer) and not t.finished.is_set()
    ] == []
