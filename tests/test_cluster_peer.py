"""`benchmarks/cluster_peer.py`, which needs RLlib only where it measures it."""

import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "cluster_peer.py"


def called(*arguments):
    """The program in a Python without any package."""
    return subprocess.run([sys.executable, "-I", "-S", FILE, *arguments], capture_output=True, text=True)


def test_help_needs_no_library_and_says_how_to_install_rllib():
    done = called("--help")
    assert done.returncode == 0 and 'pip install "ray[rllib]' in done.stdout


def test_without_rllib_it_says_what_to_do():
    for arguments in ([], ["--rllib", "nowhere/python"]):
        done = called(*arguments)
        assert done.returncode == 2 and "is no Python; make one that has RLlib" in done.stderr


def test_a_rate_is_that_of_the_steps_after_the_warm_up():
    code = (
        "meter = Meter(5.0); meter.looks = [(10.5, 100.0), (11.0, 900.0), (12.5, 500.0)]; print(meter.rate())"
    )
    program = f"import runpy; globals().update(runpy.run_path({str(FILE)!r}, run_name='peer')); {code}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "200.0", done.stderr
