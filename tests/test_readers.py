"""Files that people write: whatever the bytes, a value or one line, soon and with little memory."""

import json
import time
import tracemalloc

import numpy as np
import pytest

from helios_jax import readers
from helios_jax.readers import ReadError, read_csv, read_json, read_json_lines, read_text, read_yaml

GOOD = {
    "json": b'[{"prompt": "a ball", "chunks": 4, "blend": [1, 2.5e3, null, true]}, "\\u00e9"]',
    "jsonl": b'{"path": "a.mp4", "caption": "a cat"}\n\n{"path": "b.mp4", "caption": "\xc3\xa9"}\n',
    "yaml": b"- {prompt: ball, chunks: 4}\n- prompt: 2026-11-30\n  chunks: 0x1F\n- !!binary aGk=\n",
    "csv": b'id,prompt_index,prompt\n1,0,"a ball, red"\n1,1,"it ""turns"" blue"\n',
}
READERS = {
    "json": read_json,
    "jsonl": lambda path: list(read_json_lines(path)),
    "yaml": read_yaml,
    "csv": read_csv,
}
SCRAPS = (
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\n", b"\r", b'"', b"'", b",", b"[", b"{", b"}", b"]"),
    *(b"&a ", b"*a ", b"!!python/object:os.system ", b"!!binary ", b"!!timestamp ", b"!!int "),
    *(
        b"9" * 5000,
        b"1e999",
        b"NaN",
        b"-Infinity",
        b"0x",
        b"2026-13-45",
        b"\xef\xbb\xbf",
        b"? ",
        b": ",
    ),
    *(b"[" * 3000, b"{a: " * 300, b"- " * 3000, b"%TAG ! x", b"--- ", b"<<: "),
)


def damaged(content, rng):
    """A few bytes changed, cut out, doubled, or scraps put in."""
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(content) + 1))
        end = place + int(rng.integers(1, 20))
        kind = rng.integers(4)
        if kind == 0:
            content = content[:place] + bytes([rng.integers(256)]) + content[place + 1 :]
        elif kind == 1:
            content = content[:place] + content[end:]
        elif kind == 2:
            content = content[:end] + content[place:]
        else:
            content = content[:place] + SCRAPS[rng.integers(len(SCRAPS))] + content[place:]
    return content


@pytest.mark.parametrize("kind", GOOD)
def test_good_files_are_read(tmp_path, kind):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf" + GOOD[kind])
    assert len(READERS[kind](tmp_path / "a")) >= 2


@pytest.mark.parametrize("kind", GOOD)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, kind, record_property):
    """300 of each kind."""
    record_property("cases", 300)
    rng = np.random.default_rng(0)
    refused = 0
    for number in range(300):
        content = damaged(GOOD[kind], rng)
        (tmp_path / "a").write_bytes(content)
        try:
            READERS[kind](tmp_path / "a")
        except ReadError as error:
            refused += 1
            message = str(error)
            assert message.startswith(f"{tmp_path / 'a'} cannot be read: "), (number, content)
            assert "\n" not in message
            assert len(message) < 600
    assert 50 < refused < 300


def nested(count):
    return b"[" * count + b"]" * count


def laughs():
    lines = [b"a0: &a0 [x, x]"]
    lines += [b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 30)]
    return b"\n".join(lines)


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("yaml", laughs(), r"aliases \(\*name\) are not read"),
        ("yaml", b"- " * 100_000, "nested too deeply"),
        ("yaml", b"a" * 300_000, "it has more than 256 KiB"),
        ("json", nested(100_000), "nested too deeply"),
        ("json", b"9" * 5000, "4300 digits"),
        ("json", b'"' + b"a" * (100 << 20) + b'"', "it has more than 16 MiB"),
        ("jsonl", b'{"caption": "' + b"a" * (2 << 20) + b'"}', "line 1: it has more than 1 MiB"),
        ("csv", b"a,b\n" + b"1,2\n" * 1_000_000, "it has more than 100,000 rows"),
        ("csv", b"a\n" + b"b" * 200_000, "field larger than field limit"),
        ("csv", b"", "it is empty"),
        ("csv", b"a,b\n", "it has no rows"),
        ("csv", b"a,b\n1\n", "line 2 has 1 cells, its first line 2 names"),
        ("csv", b"a,a\n1,2\n", "a name stands twice"),
        ("csv", b"\x93NUMPY\xff\xfe", "it is not UTF-8 text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_too_much_is_refused_soon_and_the_limit_named(tmp_path, kind, content, reason):
    (tmp_path / "a").write_bytes(content)
    del content
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ReadError, match=reason):
        READERS[kind](tmp_path / "a")
    seconds = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 10  # tracing slows it tenfold
    assert peak < 150 * readers.MIB


def test_a_device_without_end_is_refused():
    with pytest.raises(ReadError, match="/dev/zero cannot be read: it has more than 16 MiB"):
        read_text("/dev/zero")


@pytest.mark.parametrize("path", ["nowhere", ".", "a\0b", "a" * 5000])
def test_a_path_that_is_no_file_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for read in READERS.values():
        with pytest.raises(ReadError, match="cannot be read"):
            read(path)


def test_a_lenient_table_has_empty_cells_for_missing_ones(tmp_path):
    (tmp_path / "a").write_text("a,b\n1\n1,2,3\n")
    rows = read_csv(tmp_path / "a", strict=False)
    assert rows == [{"a": "1", "b": ""}, {"a": "1", "b": "2"}]


def test_lines_are_read_one_after_another(tmp_path):
    """A later bad line does not hide the values before it."""
    (tmp_path / "a").write_text(json.dumps({"a": 1}) + "\n{\n")
    lines = read_json_lines(tmp_path / "a")
    assert next(lines) == {"a": 1}
    with pytest.raises(ReadError, match="line 2: "):
        next(lines)


@pytest.mark.parametrize("text", ["[" * 3000, "- " * 3000 + "a", "{a: " * 3000])
def test_yaml_in_yaml_is_refused_before_it_takes_time(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    began = time.process_time()
    with pytest.raises(ReadError, match="nested too deeply"):
        read_yaml(tmp_path / "a.yaml")
    assert time.process_time() - began < 1
