"""README, docs and help texts: what they tell people to type works, what they quote is there."""

import ast
import functools
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from absl import flags

from helios_jax.commands import COMMANDS, cli, plan
from helios_jax.commands.flag_lists import find_command, subcommands
from helios_jax.config import to_dict
from helios_jax.training.config import TrainableConfig, TrainConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
PATCHES = sorted((DOCS / "changes").glob("*.patch"))

# ml_collections loads recipes so.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module.*:DeprecationWarning")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def joined(text: str) -> list[str]:
    """Lines, with those that a backslash continues as one."""
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def commands_of(text: str) -> list[list[str]]:
    """The words of each helios-jax command of a text."""
    found = []
    for line in joined(text):
        match = re.search(r"(?:^|\s|&& )(?:helios-jax|python sample\.py|python train\.py) .*", line)
        if not match or "COMMAND" in line:
            continue
        command = re.split(r" \| |;| > |  +#| & | && ", match[0].strip().removeprefix("&& "))[0]
        command = command.replace("python sample.py", "helios-jax sample")
        words = shlex.split(command.replace("python train.py", "helios-jax train"), comments=True)
        if len(words) > 1 and words[2:3] != ["..."]:  # those leave out what another line has
            found.append(words)
    return found


def inline_commands(page: Path) -> list[str]:
    """The commands that stand in the sentences and tables of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    found = re.findall(r"`(helios-jax [^`]+)`", " ".join(text.split()))
    return [each for each in found if each != "helios-jax sample --solver sde"]  # after its patch


def cases() -> list[tuple[str, list[str]]]:
    """Every command of the pages and of the help texts, and where it stands."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            found += [(page.name, words) for words in commands_of(block)]
    for name in COMMANDS:
        doc = find_command(name).__doc__ or ""
        indented = "\n".join(line[2:] for line in joined(doc) if line.startswith("  "))
        found += [(f"{name} --help", words) for words in commands_of(indented)]
    return found


@pytest.mark.parametrize(("place", "words"), cases())
def test_a_command_that_people_are_told_to_type_is_understood(place, words):
    """Every flag of it is known, has a value that it takes, and recipes and fields are there."""
    _, name, *rest = words
    if name.startswith("--"):
        return
    assert name in COMMANDS, f"{place}: there is no command {name}"
    if name == "plan":
        name, *rest = [word for word in rest if not word.startswith("--gpu")]
        assert name in plan.PLANNED
    if name == "completion":
        assert rest[0] in ("bash", "zsh", "fish")
        return
    own = {subcommand: define for subcommand, _, define in subcommands(find_command(name))}
    define = own.get("") or own[rest.pop(0)]
    if name == "bench":
        rest = [word for word in rest if word.startswith("-")]  # it takes folders by themselves
    options = flags.FlagValues()
    cli._parse(options, define, [f"helios-jax {name}", *rest])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_that_a_sentence_names_is_there(page):
    """With its subcommand and its flags, whose values a sentence may leave out."""
    for command in inline_commands(page):
        _, name, *rest = shlex.split(command)
        assert name in COMMANDS, command
        name = rest.pop(0) if name == "plan" and rest else name
        own = {subcommand: define for subcommand, _, define in subcommands(find_command(name))}
        define = own.get("") or own[rest.pop(0) if rest else next(iter(own))]
        options = flags.FlagValues()
        define(options, [f"helios-jax {name}"])
        for word in rest:
            if word.startswith("--") and word != "--help":
                assert word.removeprefix("--").partition("=")[0] in options, command


def test_there_are_commands_to_check():
    """Or a change of the pages' form would leave nothing to the test above."""
    places = {place for place, _ in cases()}
    assert {"README.md", "sample.md", "train.md", "own_clips.md", "sample --help"} <= places
    assert len(cases()) > 60


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_printed_with_status_0(name, capsys):
    module = find_command(name)
    assert module.main([f"helios-jax {name}", "--help"]) == 0
    assert len(capsys.readouterr().out) > 200


@functools.cache
def module_of_docs(name: str):
    """A module that lies beside the pages."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def collected():
    """The module that collects messages."""
    return module_of_docs("messages")


def test_messages_that_are_explained_are_in_the_source():
    """A message is quoted as the source has it, from some point on."""
    page = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `(.*?)` \|", page, flags=re.MULTILINE)
    assert len(quoted) > 30
    said = [" ".join(message.text.split()) for message in collected().messages()]
    said += [" ".join(text.split()) for text in source_texts()]
    for message in quoted:
        assert any(message in text for text in said), message


def source_texts() -> list[str]:
    """Every f-string of the library, as the collector of messages writes it."""
    module = collected()
    found = []
    for _, tree in module.sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.append(module.template(node))
    return found


def test_every_error_class_says_what_it_means():
    module = collected()
    used = {message.error for message in module.messages()}
    classes = module.error_classes()
    assert all(classes[name] for name in used if not name.startswith("_"))
    assert len(module.messages()) > 400


def test_the_reference_lists_every_field_of_a_recipe():
    page = module_of_docs("configuration").as_page()
    rows = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    assert fields(to_dict(TrainConfig(trainable=TrainableConfig(rank=1)))) <= rows


def fields(values: dict) -> set[str]:
    """The names of all values of nested dictionaries."""
    found = set()
    for name, value in values.items():
        found |= fields(value) if isinstance(value, dict) else {name}
    return found


def test_code_that_a_page_shows_is_there():
    """By its name, so that it never goes stale; lines have no numbers."""
    shown = re.findall(
        r"^```\{literalinclude\} (\S+)\n:pyobject: (\w+)$",
        (DOCS / "how_it_works.md").read_text(),
        flags=re.MULTILINE,
    )
    assert len(shown) > 8
    for file, name in shown:
        tree = ast.parse((DOCS / file).read_text())
        assert name in {getattr(node, "name", None) for node in tree.body}, name


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_change_of_the_guide_applies_to_the_tree(patch):
    subprocess.run(["git", "apply", "--check", str(patch)], cwd=ROOT, check=True)


@pytest.mark.slow
def test_the_changes_of_the_guide_pass_their_tests(tmp_path):
    """All of them together, in a copy of the tree."""
    tracked = subprocess.run(
        ["git", "ls-files", "helios_jax", "kernels", "configs", "tests", "pyproject.toml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in tracked.stdout.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name, follow_symlinks=False)
    tests = []
    for patch in PATCHES:
        subprocess.run(["git", "apply", "--unsafe-paths", str(patch)], cwd=tmp_path, check=True)
        tests += re.findall(r"^\+\+\+ b/(tests/\S+)", patch.read_text(), flags=re.MULTILINE)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True,
    )


def test_the_badges_are_what_pyproject_says():
    """Run ``python docs/badges.py`` where it says something else now."""
    badges = module_of_docs("badges")
    drawn = {path.stem: path.read_text() for path in badges.FOLDER.glob("*.svg")}
    assert drawn == badges.badges()


def test_the_readme_predicts_what_the_page_on_speed_does():
    readme = (ROOT / "README.md").read_text()
    speed = (DOCS / "speed.md").read_text()
    predicted = re.findall(r"\| ([\d.]+)&nbsp;frames/s \|", readme)
    assert len(predicted) == 2
    assert all(f"| {rate} frames/s |" in speed for rate in predicted)


def test_the_readme_is_one_screen():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 75


@pytest.mark.slow
def test_the_commands_and_the_python_of_the_readme_run(tmp_path):
    """All but the installation; the page serves until it is interrupted."""
    page = ROOT / "README.md"
    lines = [line for block in blocks(page, "bash") for line in joined(block)]
    [sample] = [line for line in lines if line.startswith("helios-jax sample")]
    run_command(sample, tmp_path)
    [code] = blocks(page, "python")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "star.mp4").stat().st_size > 0
    assert (tmp_path / "story.mp4").stat().st_size > 0
    [demo] = [line for line in lines if line.startswith("helios-jax demo")]
    _, *words = shlex.split(demo, comments=True)
    command = [sys.executable, "-m", "helios_jax", *words, "--port=0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        said = iter(server.stdout.readline, "")
        address = next(word for line in said for word in line.split() if word.startswith("http:"))
        assert b"helios-jax" in urllib.request.urlopen(address).read()
        server.send_signal(signal.SIGINT)
    assert server.returncode == 0


@pytest.mark.slow
def test_own_clips_become_a_checkpoint_that_makes_a_video(tmp_path):
    """Every command of the page, in order, with two steps for twenty."""
    run_page(DOCS / "own_clips.md", tmp_path, {"--config.steps=20": "--config.steps=2"})
    assert (tmp_path / "ring.mp4").stat().st_size > 0


@pytest.mark.slow
def test_the_first_video_and_the_python_of_the_start_page_run(tmp_path):
    page = DOCS / "start.md"
    (tmp_path / "docs").symlink_to(DOCS)
    [first] = [block for block in blocks(page, "bash") if "helios-jax sample" in block]
    run_command(first, tmp_path)
    code = "\n".join(blocks(page, "python"))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "star.mp4").stat().st_size > 0
    assert (tmp_path / "story.mp4").stat().st_size > 0


def run_page(page: Path, folder: Path, changes: dict[str, str]) -> None:
    """Run the helios-jax commands of a page in a folder."""
    lines = itertools.chain.from_iterable(joined(block) for block in blocks(page, "bash"))
    for line in lines:
        for old, new in changes.items():
            line = line.replace(old, new)
        run_command(line, folder)


def run_command(line: str, folder: Path) -> None:
    _, *words = shlex.split(line)
    command = [sys.executable, "-m", "helios_jax", *words]
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
