"""What all commands share."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from helios_jax.commands import convert, demo, encode, evaluate, ode_pairs, sample, train
from helios_jax.commands.cli import run_command
from helios_jax.models.tokenizer import toy_tokenizer

# ml_collections loads recipes so.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module.*:DeprecationWarning")


def test_a_prompt_that_is_cut_is_one_line_in_the_commands_name(capsys):
    def encode(options):
        toy_tokenizer(300)(["a red ball rolls over green grass"], 5)

    assert run_command("", lambda options, argv: None, encode, ["helios-jax encode"]) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("helios-jax encode: the prompt 'a red ball rolls over green grass'...")


@pytest.mark.parametrize(
    "content",
    ["root:x:0:0:/root:/bin/sh\n", "import nothing\n", "x = 1\n", "raise RuntimeError('no')\n",
     "def get_config(): return 5\n", "def get_config(:\n", "\0", "def get_config(): 1 / 0\n"],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_one_line(tmp_path, capsys, content):
    """A recipe is a program, which can fail in any way."""
    (tmp_path / "recipe.py").write_text(content)
    for command in (sample, train):
        arguments = ["helios-jax", "--prompt=a"] if command is sample else ["helios-jax"]
        assert command.main([*arguments, f"--config={tmp_path / 'recipe.py'}"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "config" in err


@pytest.mark.parametrize("thresholds", ["", ",", "1,2,3", "nan", "a"])
def test_thresholds_that_are_no_one_or_two_numbers_are_one_line(capsys, thresholds):
    arguments = ["--prompt=a", "--drift", f"--drift_thresholds={thresholds}"]
    assert sample.main(["helios-jax sample", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "flag"),
    [(sample, "checkpoint"), (sample, "image"), (sample, "lora"), (sample, "out"),
     (sample, "prompt_file"), (convert, "source"), (convert, "rest"), (convert, "partial"),
     (encode, "captions"), (train, "run"), (demo, "token")],
)  # fmt: skip
def test_a_flag_of_a_variable_that_is_not_set_is_refused(capsys, command, flag):
    """``--image=$IMAGE`` would be a video without it, ``--token=$TOKEN`` a server without."""
    arguments = {sample: ["--prompt=a"], encode: ["--out=records"]}.get(command, [])
    arguments = [] if "prompt" in flag else arguments
    assert command.main(["helios-jax", *arguments, f"--{flag}="]) == 2
    assert f"--{flag} is empty: give it a value, or leave it out" in capsys.readouterr().err


def test_memory_that_is_not_there_is_one_line(capsys):
    def allocate(options):
        bytearray(2**62)

    assert run_command("", lambda options, argv: None, allocate, ["helios-jax encode"]) == 2
    assert capsys.readouterr().err.startswith("helios-jax encode: out of memory")


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\x07b", "a\u202eb", "a\udcffb"])
def test_a_terminal_obeys_no_file_name(capsys, name):
    """Escape sequences, a bell, a change of direction, and bytes that are no characters."""
    assert sample.main(["helios-jax sample", "--prompt=a", f"--out={name}.xyz"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert name not in told
    assert told.strip().isprintable()


@pytest.mark.parametrize("digits", [320, 4000])
@pytest.mark.parametrize(
    "flag", ["num_frames", "height", "batch", "seed", "fps", "zero_init_steps"]
)
def test_a_number_of_many_digits_is_one_short_line(capsys, flag, digits):
    assert sample.main(["helios-jax sample", "--prompt=a", f"--{flag}={'9' * digits}"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert len(told) < 600


@pytest.mark.parametrize(
    "flag", ["guidance_scale", "shift", "base_shift", "max_shift", "guidance_interval"]
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e300", "1e30"])
def test_floats_beyond_all_use_are_refused(capsys, flag, value):
    """Beyond float32 a guidance scale gave grey frames."""
    value = f"0,{value}" if flag == "guidance_interval" else value
    assert sample.main(["helios-jax sample", "--prompt=a", f"--{flag}={value}"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert flag in told


def test_a_name_that_is_not_utf_8_can_be_printed(tmp_path):
    """On a strict terminal, and what is printed before and after is as it was."""
    body = "lambda options: print('wrote a\\udcff.mp4')"
    code = (
        "from helios_jax.commands.cli import run_command as run; import sys; "
        f"sys.exit(run('', lambda *_: None, {body}, ['helios-jax a']))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"wrote a\\udcff.mp4\n"


def _piped(shell):
    """What a shell prints, and on standard error, of a command that prints a long text."""
    code = (
        "from helios_jax.commands.cli import run_command; import sys; "
        "body = lambda options: print('long ' * 100000); "
        "sys.exit(run_command('', lambda *_: None, body, ['helios-jax']))"
    )
    command = shell.format(f'{sys.executable} -c "{code}"')
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True)


def test_a_reader_that_has_seen_enough_ends_the_command_in_silence():
    done = _piped("{} | head -c 4; echo ' '${{PIPESTATUS[0]}}")
    assert done.stdout == "long 141\n"
    assert done.stderr == ""


def test_output_that_cannot_be_written_is_one_line():
    done = _piped("{} > /dev/full; echo $?")
    assert done.stdout == "2\n"
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_streams_that_are_closed_do_not_become_files(tmp_path):
    """What is printed goes nowhere, and not into the first file that is opened."""
    code = (
        "from helios_jax.commands.cli import run_command; import os, sys; "
        f"body = lambda options: os.open({str(tmp_path / 'a')!r}, os.O_CREAT | os.O_RDWR) and "
        "print('a') or os.system('echo b; echo c >&2'); "
        "sys.exit(run_command('', lambda *_: None, body, ['helios-jax']))"
    )
    command = f'{sys.executable} -c "{code}" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", command]).returncode == 0
    assert (tmp_path / "a").read_bytes() == b""


def test_a_refusal_of_the_system_is_told_after_the_files_name(capsys, tmp_path):
    path = tmp_path / "absent"
    assert run_command("", lambda *_: None, lambda _: path.read_text() and None, ["a"]) == 2
    assert capsys.readouterr().err == f"a: {path}: No such file or directory\n"


@pytest.mark.parametrize("word", ["--version", "--help", "sample"])
def test_what_is_printed_without_a_command_may_have_no_place(word):
    command = f"{sys.executable} -m helios_jax {word}"
    done = subprocess.run(f"{command} > /dev/full", shell=True, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "helios-jax: cannot print: No space left on device\n"
    assert subprocess.run(f"{command} > /dev/full 2>&1", shell=True).returncode == 2


class _Finalized:
    """Calls a function when it is deleted."""

    def __init__(self, last):
        self.last = last

    def __del__(self):
        self.last()


@contextlib.contextmanager
def _while_deleting(act):
    """Calls ``act`` in a finalizer."""
    thing = _Finalized(act)
    del thing
    yield


@contextlib.contextmanager
def _while_forgetting(act):
    """Calls ``act`` in the callback of a weak reference."""
    thing = _Finalized(lambda: None)
    reference = weakref.ref(thing, lambda _: act())
    del thing
    yield
    del reference


@contextlib.contextmanager
def _while_collecting(act):
    """Calls ``act`` once in a callback of the garbage collector, beside those of libraries."""

    def callback(phase, _):
        if phase == "start" and not done:
            done.append(True)
            act()

    done = []
    gc.callbacks.insert(0, callback)
    try:
        gc.collect()
        yield
    finally:
        gc.callbacks.remove(callback)


@pytest.fixture
def heard():
    """SIGHUP is not ignored, as it is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("moment", [_while_collecting, _while_deleting, _while_forgetting])
def test_a_signal_ends_the_command_whatever_runs_when_it_comes(moment, number, heard, capsys):
    """Python drops what is raised at these moments, so the signal comes again."""
    before = signal.getsignal(number)

    def work(options):
        with moment(lambda: [signal.raise_signal(number), "a moment for the signal's handler"]):
            time.sleep(30)

    began = time.monotonic()
    try:
        status = run_command("A command.", lambda options, argv: None, work, ["helios-jax"])
    except SystemExit as error:
        status = error.code
    assert status == 128 + number
    assert time.monotonic() - began < 10
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_end_the_cleaning_up(second, capsys):
    """As from Ctrl-C that is pressed twice."""
    done = []

    def work(options):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(second)
            done.append("cleaned up")

    assert run_command("A command.", lambda options, argv: None, work, ["helios-jax"]) == 130
    assert done == ["cleaned up"]
    assert capsys.readouterr().err.count("\n") == 1


def test_ctrl_c_while_a_command_is_imported_is_one_line():
    code = (
        "import importlib, signal, sys; "
        "importlib.import_module = lambda name: signal.raise_signal(signal.SIGINT); "
        "from helios_jax.commands import main; sys.exit(main(['helios-jax', 'world']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr == "helios-jax world: interrupted\n"


@pytest.mark.parametrize(
    ("command", "flags"),
    [(encode, ["--world=1", "--config=tiny", "--out=r", "--world_uncaptioned=nan"]),
     (ode_pairs, ["--checkpoint=c", "--out=o", "--world=1", "--seed=-1"]),
     (evaluate, ["--seed=-1"]), (demo, ["--port=-1"]), (demo, ["--port=65536"]),
     (demo, [f"--folder={__file__}"]), (sample, ["--prompt=a", "--guidance_scale=nan"])],
)  # fmt: skip
def test_a_number_outside_of_its_flags_range_is_refused_before_anything(capsys, command, flags):
    """NaN is in every range that compares, and a negative seed in none of the generators'."""
    assert command.main(["helios-jax", *flags]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert flags[-1].partition("=")[0] in told
