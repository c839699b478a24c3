"""The README and the pages in docs/: their code runs, their links lead somewhere, and nothing names a machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from project_files import project_files

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = "<!-- not run -->"
FENCE = re.compile(r"^( *)(`{3,})\s*(\w*)[^`]*$")
BUDGET = re.compile(r"(--total-timesteps )([\d_]+)")
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)[^)]*\)")

# Addresses and paths that hold for one place only. Written so that this file does not match itself.
PLACES = re.compile(
    r"pypi[.]org|pythonhosted[.]org|registry[.]npmjs|conda[.]anaconda|crates[.]io|deb[.]debian|index[-]url|find[-]links"
    r"|git[+](?:https?|ssh|file):|git[@][\w.-]+:|https?://[^\s)>\"']+[.]git\b"
    r"|/(?:root|work|Users)[/]|/home[/]\w|file[:]//"
)

# What a page's script imports on its first line: runs a command line as a shell would, but in the page's process.
SHELL = """
import glob, shlex
from advantage.cli import main

def _run(line):
    words = [word for given in shlex.split(line, comments=True) for word in sorted(glob.glob(given)) or [given]]
    print("$", line, flush=True)
    assert main(words[1:]) == 0
"""


def _blocks(text: str) -> list[tuple[str, int, list[str]]]:
    """The fenced blocks that are to run: language, number of the first line of code (from 0), lines."""
    blocks, lines, number, last = [], text.splitlines(), 0, ""
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if opening:
            indent, fence, language = len(opening[1]), opening[2], opening[3]
            end = next(n for n in range(number + 1, len(lines) + 1) if lines[n].strip() == fence)
            if last != NOT_RUN:
                blocks.append((language, number + 1, [line[indent:] for line in lines[number + 1 : end]]))
            number = end
        if lines[number].strip():
            last = lines[number].strip()
        number += 1
    return blocks


def budget(steps: int, share: int) -> int:
    """A share of a budget, of the longest ones at most 10,000 steps."""
    return steps if share == 1 else min(steps // share, 10_000)


def _script(text: str, share: int = 1) -> str:
    """One Python script for a page: code stands on the line that it has in the page, so tracebacks point there.

    Budgets on command lines are divided by `share`; see `budget`.
    """
    script = ["from _shell import _run"] + [""] * text.count("\n")
    for language, start, lines in _blocks(text):
        if language == "python":
            script[start : start + len(lines)] = lines
        elif language in ("console", "bash", "sh"):
            number = 0
            while number < len(lines):
                first, line = number, lines[number].strip().removeprefix("$ ")
                while line.endswith("\\"):
                    number += 1
                    line = line[:-1] + lines[number].strip()
                line = BUDGET.sub(lambda given: given[1] + str(budget(int(given[2]), share)), line)
                if line.startswith("advantage "):
                    script[start + first] = f"_run({line!r})"
                number += 1
    return "\n".join(script)


def _run_script(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "_shell.py").write_text(SHELL)
    (folder / "page.py").write_text(script)
    return subprocess.run(
        [sys.executable, "page.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )


def test_the_readmes_commands_run_with_small_budgets(tmp_path: Path):
    done = _run_script(_script((ROOT / "README.md").read_text(encoding="utf-8"), share=10), tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_of_the_page_runs(page: Path, tmp_path: Path):
    done = _run_script(_script(page.read_text(encoding="utf-8")), tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]


def test_readme_shows_the_command_line_and_python():
    script = _script((ROOT / "README.md").read_text(encoding="utf-8"))
    assert script.count("_run('advantage ") >= 4
    assert "adv.train(" in script


SAMPLE = """# A page
```console
$ advantage one --two "three four"   # a comment
other
advantage five \\
    six
```
Words.
<!-- not run -->
```python
raise SystemError
```

```python
x = 1
```
- In a list:
  ```python
  assert x == 1
  ```
```
advantage plain text
```
"""


def test_the_reader_of_pages_finds_what_is_to_run():
    script = _script(SAMPLE).splitlines()
    assert script[2] == "_run('advantage one --two \"three four\"   # a comment')"
    assert script[4] == "_run('advantage five six')"
    assert [line for line in script if line][3:] == ["x = 1", "assert x == 1"]
    for number, line in enumerate(script[1:], 1):
        assert not line or line.startswith("_run") or line in SAMPLE.splitlines()[number]


def test_a_failing_page_fails(tmp_path: Path):
    done = _run_script(_script("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n"), tmp_path)
    assert done.returncode == 1
    assert "line 6" in done.stdout
    done = _run_script(_script("```console\nadvantage no-such-command\n```\n"), tmp_path)
    assert done.returncode == 1


def _anchor(heading: str) -> str:
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page: Path):
    dead = []
    prose = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in LINK.findall(prose):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            dead.append(link)
        elif anchor and target.suffix == ".md":
            text = target.read_text(encoding="utf-8")
            headings = [_anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)]
            if anchor not in headings + re.findall(r"^::: (.*)$", text, flags=re.MULTILINE):
                dead.append(link)
        if page.is_relative_to(ROOT / "docs") and path and not target.is_relative_to(ROOT / "docs"):
            dead.append(f"{link} leaves docs/, so the built site cannot follow it")
    assert not dead, dead


def test_every_promise_has_tests_that_bear_its_number():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    promises = text.partition("## Promises")[2].partition("\n## ")[0]
    promised = {int(number) for number in re.findall(r"^(\d+)\. ", promises, flags=re.MULTILINE)}
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")]
    tested = {
        int(n) for source in sources for n in re.findall(r"^def test_promise_(\d+)_", source, re.MULTILINE)
    }
    assert promised == tested == set(range(1, 18))


def test_no_file_names_a_registry_or_a_machine():
    found, read = [], 0
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or a checkpoint
        read += 1
        for number, line in enumerate(text.splitlines(), 1):
            if match := PLACES.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    assert read > 20
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "https://pypi" + ".org/simple",
        "/ho" + "me/me/x",
        "git" + "+https://x",
        "/wo" + "rk/main",
        "git" + "@host.example:a",
    ],
)
def test_places_are_recognised(text: str):
    assert PLACES.search(text)
