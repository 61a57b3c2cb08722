"""Pickles are read as data: whatever they ask for, nothing runs, and memory stays small."""

import io
import pickle
import pickletools
import struct
import subprocess
import sys
from pathlib import Path

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from helios_jax.checkpoint.pickles import PickledObject, PickleError, RefusedError, read_pickle
from helios_jax.checkpoint.pth import FUNCTIONS, STORAGE_DTYPES, Storage, Storages

CLASS = ("PIL.Image", "Image")


def read(content):
    """With the vocabulary of torch's files and one class more."""
    storages = Storages(Path("/nowhere"), "archive/data/", {})

    def is_class(name):
        return name in STORAGE_DTYPES or name == CLASS

    return read_pickle(content, FUNCTIONS, is_class, storages.find)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_read_as_pickle_reads_them(protocol):
    value = {
        "numbers": [0, -1, 2**31, 2**40, -(2**62), 0.5, True, False, None],
        "text": ("", "a", "ü" * 300, (1, (2, 3, 4), ())),
        "more": [{"a": {}}, [[]]],
    }
    assert read(pickle.dumps(value, protocol)) == pickle.loads(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", [4, 5])
def test_bytes_and_sets_are_read(protocol):
    value = (b"", b"\x00\xff", b"x" * 300, {1, 2}, frozenset({"a"}))
    content = pickle.dumps(value, protocol)
    assert read(content) == value


def test_the_dtype_of_numpy_is_not_changed():
    """A BUILD on a dtype gives it another element size, and a copy of its arrays runs over."""
    dtype = np.dtype(ml_dtypes.bfloat16)
    state = (3, "<", None, None, None, 4096, 1, 0)
    program = io.BytesIO()
    program.write(b"\x80\x02ctorch\nBFloat16Storage\n")
    program.write(pickle.dumps(state, 2)[2:-1])
    program.write(b"b.")
    with pytest.raises(PickleError, match="state for a value of type Global"):
        read(program.getvalue())
    assert dtype.itemsize == 2
    for name in (
        b"cnumpy\ndtype\n",
        b"cml_dtypes\nbfloat16\n",
        b"cnumpy.core.multiarray\nscalar\n",
    ):
        with pytest.raises(RefusedError, match=r"numpy|ml_dtypes"):
            read(b"\x80\x02c" + name + b"\n)Rb.")


def test_state_is_kept_and_not_set():
    made = read(b"\x80\x02cPIL.Image\nImage\n)\x81}X\x08\x00\x00\x00__dict__X\x01\x00\x00\x00xsb.")
    assert type(made) is PickledObject
    assert made.state == {"__dict__": "x"}
    assert vars(made).keys() == {"kind", "state"}


TUPLES_OF_TUPLES = b")" + b"2\x86" * 100
"""A tuple whose two elements are one tuple, and so on: hashing it takes 2**100 steps."""

ENDLESS = {
    "a key that takes for ever": (b"}" + TUPLES_OF_TUPLES + b"Ns.", "type tuple as a key"),
    "an element that does": (b"\x8f(" + TUPLES_OF_TUPLES + b"\x90.", "type tuple as a key"),
    "digits": (b"I" + b"9" * 5000 + b"\n.", "ValueError"),
    "bits": (b"\x8b" + struct.pack("<i", 99) + b"\x7f" * 99 + b".", "more than 64 bits"),
    "length": (b"\x8e" + struct.pack("<Q", 2**60) + b"abc.", "ValueError"),
    "steps": (b"N" * 2_000_000 + b".", "more than 2000000 steps"),
    "bytes": (b"N" * (2**26 + 1), "at most"),
    "nothing to take": (b"0.", "IndexError"),
    "nothing remembered": (b"h\x07.", "KeyError"),
    "nothing": (b"", "ValueError"),
    "no end": (b"N", "ValueError"),
    "a mark as value": (b"(.", "a mark"),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_program_that_would_hang_or_fill_memory_ends_early(case):
    program, says = ENDLESS[case]
    with pytest.raises(PickleError, match=says):
        read(program)


def test_nesting_of_any_depth_is_read_and_let_go():
    value = read(b"N" + b"\x85" * 200_000 + b".")
    assert type(value) is tuple
    del value


INTERESTING = [
    *(f"c{module}\n{name}\n".encode() for module, name in [*FUNCTIONS, *STORAGE_DTYPES, CLASS]),
    b"cnumpy\ndtype\n",
    b"cos\nsystem\n",
    b"cbuiltins\ngetattr\n",
    b"X\x07\x00\x00\x00storage",
    b"X\x01\x00\x00\x000",
    b"X\x03\x00\x00\x00cpu",
    b"K\x02",
    b"M\xff\xff",
    b"J\xff\xff\xff\xff",
    b"(",
    b"t",
    b"R",
    b"b",
    b"\x81",
    b"Q",
    b"}",
    b"]",
    b")",
    b"\x8f",
    b"s",
    b"u",
    b"a",
    b"e",
    b"2",
    b"q\x01",
    b"h\x01",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x94",
    b"N",
]
OPCODES = [operation.code.encode("latin1") for operation in pickletools.opcodes]


def program_of(choices):
    """The program that bytes choose: some choose a step that leads on, others any operation, with
    the bytes that follow as its argument.
    """
    steps = [b"\x80\x04N])}X\x01\x00\x00\x000K\x01N])}"]  # for operations to find something
    place = 0
    while place < len(choices):
        choice = choices[place]
        place += 1
        if choice < 192:
            steps.append(INTERESTING[choice % len(INTERESTING)])
        else:
            length = choice % 8
            steps.append(OPCODES[choice % len(OPCODES)] + choices[place : place + length])
            place += length
    return b"".join(steps) + b"."


PROGRAM = st.binary(max_size=80).map(program_of)

VALUES = (type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset)


def check_one(program):
    """It ends with a plain value or with PickleError."""
    try:
        value = read(program)
    except PickleError:
        return
    assert isinstance(value, VALUES) or type(value).__module__.startswith("helios_jax.checkpoint")
    assert not isinstance(value, Storage)  # the archive has none


@hypothesis.settings(max_examples=1000, deadline=None, database=None)
@hypothesis.given(PROGRAM)
def test_no_program_does_anything_but_end(program):
    check_one(program)


FUZZ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
sys.path.insert(0, {root!r})
import hypothesis
from tests.checkpoint.test_pickles import PROGRAM, check_one
settings = hypothesis.settings(
    max_examples=100_000,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
settings(hypothesis.given(PROGRAM)(check_one))()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_hundred_thousand_programs_run_in_little_memory(pytestconfig, record_property):
    """In a process of their own, whose address space is limited."""
    record_property("cases", 100_000)
    code = FUZZ.format(root=str(pytestconfig.rootpath))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 2 * 2**20  # KiB


def test_the_longest_pickle_that_is_read_takes_little_memory(pytestconfig):
    """Two million empty dictionaries, the most that the limits allow."""
    code = (
        "import resource\n"
        "from helios_jax.checkpoint.pickles import MAX_STEPS, read_pickle\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "read_pickle(b'}' * (MAX_STEPS - 1) + b'.', {}, bool, bool)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**20  # KiB
