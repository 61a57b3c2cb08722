"""Files of prompts, as people have them."""

import json

import pytest

from helios_jax.sampling.prompt_files import read_prompt_file
from helios_jax.sampling.request import RequestError

BENCH = 'id,prompt,duration\n1,"A cat, asleep.",1440\n2,A dog runs.,240\n'
RECORDS = [{"path": "a.mp4", "cap": ["A cat, asleep.", "a cat"]}, {"cap": ["A dog runs."]}]
LINES = '{"file_name": "a.mp4", "text": "A cat, asleep."}\n{"text": "A dog runs."}\n'


@pytest.mark.parametrize(
    ("name", "content", "notes"),
    [
        ("prompts.txt", "A cat, asleep.\n\n  A dog runs. \n", []),
        ("helios_t2v_prompts.csv", BENCH, ["2 prompts, of prompt; not read: id, duration"]),
        ("metadata.csv", 'text\n"A cat, asleep."\nA dog runs.\n', []),
        ("metadata.jsonl", LINES, ["2 prompts, of text; not read: file_name"]),
        ("list.json", json.dumps(RECORDS), ["2 prompts, of cap; not read: path"]),
        ("plain.json", json.dumps(["A cat, asleep.", "A dog runs."]), []),
    ],
)
def test_prompts_are_found_and_what_else_is_there_is_named(tmp_path, name, content, notes):
    path = tmp_path / name
    path.write_text(content)
    found = read_prompt_file(path)
    assert found.prompts == ["A cat, asleep.", "A dog runs."]
    assert found.notes == [f"{path}: {note}" for note in notes]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "\n \n", "has no prompt in it"),
        ("a.csv", "id,words\n1,a dog\n", "record 1 has no prompt or .*; it has id, words"),
        ("a.csv", "id,prompt\n1,a dog\n2,\n", "record 2 has an empty prompt"),
        ("a.csv", "id,prompt_index,prompt\n1,0,a\n", "give it as --prompt_schedule"),
        ("a.jsonl", "{", "cannot read --prompt_file .*a.jsonl: "),
        ("a.json", "[]", "has no prompt in it"),
        ("a.json", '{"prompt": "a dog"}', "holds no list of prompts"),
        ("a.json", "7", "holds no list of prompts"),
        ("a.json", "[7]", "record 1 has an empty prompt"),
    ],
)
def test_a_file_without_prompts_is_refused_by_name(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(RequestError, match=reason):
        read_prompt_file(path)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_a_million_prompts_are_refused_by_their_number(tmp_path, name):
    line = {"a.txt": "a", "a.csv": "a", "a.jsonl": '{"prompt": "a"}'}[name]
    head = "prompt\n" if name == "a.csv" else ""
    (tmp_path / name).write_text(head + f"{line}\n" * 20_000)
    with pytest.raises(RequestError, match="has 20,000 prompts; at most 10,000 are read"):
        read_prompt_file(tmp_path / name)
