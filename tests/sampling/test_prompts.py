"""Which prompt governs which chunk."""

import json

import pytest

from helios_jax.sampling.prompts import (
    PromptChange,
    PromptEntry,
    PromptSchedule,
    read_schedules,
    to_schedule,
)
from helios_jax.sampling.request import RequestError

ENTRIES = [PromptEntry("a", 7), PromptEntry("b", 7, 1), PromptEntry("c", 7, 1)]


def text(schedule, chunk):
    """Share of each prompt in the text of a chunk."""
    shares = {}
    for (prompt,), weight in schedule.at(chunk):
        shares = {name: share * (1 - weight) for name, share in shares.items()}
        shares[prompt] = shares.get(prompt, 0.0) + weight
    return {prompt: share for prompt, share in shares.items() if share}


def reference_text(chunk, interval=7, steps=3, prompts="abc"):
    """The reference's rule, in its own terms."""
    index = next((i for i in range(len(prompts)) if chunk < (i + 1) * interval), 0)
    position = chunk - index * interval
    if index == 0 or position >= steps:
        return {prompts[index]: 1.0}
    weight = position / (steps - 1)
    return {
        prompt: share
        for prompt, share in ((prompts[index - 1], 1 - weight), (prompts[index], weight))
        if share
    }


def test_a_prompt_takes_over_on_time_and_the_last_one_holds():
    schedule = PromptSchedule.of(ENTRIES)
    assert [text(schedule, chunk) for chunk in (6, 7, 8, 13)] == [
        {"a": 1},
        {"a": 0.5, "b": 0.5},
        {"b": 1},
        {"b": 1},
    ]
    assert [text(schedule, chunk) for chunk in (14, 15, 20, 21, 500)] == [
        {"b": 0.5, "c": 0.5},
        {"c": 1},
        {"c": 1},
        {"c": 1},
        {"c": 1},
    ]
    assert schedule.chunks == 21


def test_reference_takes_over_late_and_falls_back():
    """With ``reference``, every chunk's text is that of the reference's own rule, before, during
    and after the schedule.
    """
    schedule = PromptSchedule.of(ENTRIES, reference=True)
    assert [text(schedule, chunk) for chunk in range(44)] == [
        reference_text(chunk) for chunk in range(44)
    ]
    longer = PromptSchedule.of([entry._replace(blend=3) for entry in ENTRIES], reference=True)
    assert [text(longer, chunk) for chunk in range(44)] == [
        reference_text(chunk, steps=5) for chunk in range(44)
    ]


def test_a_change_amid_a_blend_starts_from_the_mixture():
    schedule = PromptSchedule.of([PromptEntry("a", 4), PromptEntry("b", 8, 3)]).change(6, ("c",), 1)
    assert text(schedule, 5) == {"a": 0.5, "b": 0.5}
    assert text(schedule, 6) == {"a": 0.25, "b": 0.25, "c": 0.5}
    assert text(schedule, 7) == {"c": 1}


def test_what_is_past_can_be_dropped():
    """The schedule since a chunk gives the same texts from there on, and holds no more prompts than
    they need.
    """
    schedule = PromptSchedule.of(
        [PromptEntry("a", 4), PromptEntry("b", 8, 3), PromptEntry("c", 8, 2)]
    ).change(14, ("d",), 2)
    for chunk in range(20):
        since = schedule.since(chunk)
        assert [since.at(later) for later in range(chunk, 24)] == [
            schedule.at(later) for later in range(chunk, 24)
        ]
    assert schedule.since(18).prompts() == ["d"]


def test_prompts_are_spread_over_a_batch():
    schedule = to_schedule(PromptSchedule.of(ENTRIES), 2)
    assert [change.prompts for change in schedule.changes] == [("a", "a"), ("b", "b"), ("c", "c")]
    assert to_schedule(["x", "y"], None).changes == (PromptChange(0, ("x", "y")),)
    with pytest.raises(RequestError, match="batch=3 does not fit 2 prompts"):
        to_schedule(["x", "y"], 3)


def test_a_table_in_the_references_columns(tmp_path):
    """Rows are grouped by id and sorted by index as numbers; a refined prompt is preferred, and
    more columns are allowed.
    """
    path = tmp_path / "prompts.csv"
    path.write_text(
        "id,prompt_index,prompt,refined_prompt,note\n7,10,third,,x\n"
        '7,2,second,"second, refined",\n312,0,only,,\n7,0,first,,\n'
    )
    schedules = read_schedules(path, chunks=3, blend=1)
    assert list(schedules) == ["7", "312"]
    assert [change.prompts[0] for change in schedules["7"].changes] == [
        "first",
        "second, refined",
        "third",
    ]
    assert schedules["7"].chunks == 9
    assert schedules["312"].prompts() == ["only"]


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_a_list_of_entries(suffix, tmp_path):
    path = tmp_path / f"story{suffix}"
    path.write_text(
        json.dumps([{"prompt": "a", "chunks": 2}, {"prompt": "b: c", "chunks": 3, "blend": 2}])
    )
    assert read_schedules(path) == {
        "story": PromptSchedule.of([PromptEntry("a", 2), PromptEntry("b: c", 3, 2)])
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,prompt\n1,x\n", "the columns prompt_index are missing"),
        ("a.csv", "id,prompt_index,prompt\n", "it has no rows"),
        (
            "a.csv",
            "id,prompt_index,prompt\n1,first,x\n",
            "row 1: prompt_index 'first' is not a whole number",
        ),
        ("a.csv", "id,prompt_index,prompt\n1,0, \n", "prompt 0 of the schedule is empty"),
        ("a.yaml", "prompt: x", "must be a list of entries"),
        ("a.yaml", "- {prompt: x, weight: 1}", "entry 0 must be a mapping"),
        ("a.yaml", "- {prompt: yes}", "entry 0: prompt=True must be of type str"),
        (
            "a.yaml",
            "- {prompt: a}\n- {prompt: b, chunks: 2, blend: 2}",
            "prompt 1 of the schedule is blended over 2 of 2 chunks",
        ),
        ("a.json", "[", "a.json: Expecting value"),
        ("a.csv", f"id,prompt_index,prompt\n1,{'9' * 5000},x\n", "is not a whole number"),
        ("a.yaml", "- &a {prompt: a}\n- *a", "aliases"),
        ("a.yaml", "- {prompt: 2026-11-30}", "prompt=datetime.date.* must be of type str"),
        ("a.yaml", "- {prompt: 2026-13-45}", "month must be in 1"),
        ("a.yaml", "- {prompt: a, chunks: 0x}", "chunks='0x' must be of type int"),
        ("a.yaml", "- {prompt: !!binary aGk=}", "prompt=b'hi' must be of type str"),
        ("a.yaml", f"- {{prompt: {'a' * 300_000}}}", "it has more than 256 KiB"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", "[]", "the prompt schedule is empty"),
        ("a.txt", "x", "cannot read .txt"),
    ],
)
def test_a_file_that_is_no_schedule_is_named_with_its_fault(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(RequestError, match=message):
        read_schedules(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"nowhere\.csv: No such file"):
        read_schedules(tmp_path / "nowhere.csv")


def test_a_story_may_be_a_list_as_a_file_has_it():
    story = [{"prompt": "a red ball", "chunks": 4}, {"prompt": "it turns blue", "chunks": 3}]
    entries = [PromptEntry("a red ball", 4), PromptEntry("it turns blue", 3, 1)]
    assert to_schedule(story, 1) == to_schedule(PromptSchedule.of(entries), 1)
    assert to_schedule(entries, 1) == to_schedule(PromptSchedule.of(entries), 1)


def test_an_entry_of_a_list_that_is_none_is_named():
    with pytest.raises(RequestError, match=r"entry 1 must be a mapping of prompt"):
        to_schedule([{"prompt": "a red ball"}, "it turns blue"], 1)


@pytest.mark.parametrize("text", ["a \udcff ball", "\ud800", "a red ball\udfff"])
def test_half_a_character_is_refused_by_its_place(text):
    """Bytes of the command line that are not UTF-8, and what JSON writes as \\ud800."""
    place = next(i for i, char in enumerate(text, 1) if "\ud800" <= char <= "\udfff")
    with pytest.raises(RequestError, match=f"its character {place} is half of a pair, U\\+D"):
        to_schedule(text, None)
    with pytest.raises(RequestError, match="not valid Unicode"):
        to_schedule([{"prompt": text, "chunks": 1}], None)


@pytest.mark.parametrize("text", ["\u202ea red ball", "a\0b", "e\u0301\u0301", "🎈", "أحمر"])
def test_other_characters_are_text(text):
    """Marks of direction, controls, accents in heaps, signs outside of the first plane."""
    assert to_schedule(text, None).prompts() == [text]
