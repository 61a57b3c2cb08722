"""Batches: the right window of the right record, the same on any number of processes and after any
interruption, and no crash over a bad file.
"""

import itertools
import json
import logging
import tracemalloc

import numpy as np
import pytest

from helios_jax.data.batches import BatchReader, DataConfig, TrainBatch, load_batch, load_batches
from helios_jax.data.epochs import PlannedBatch
from helios_jax.data.errors import DataError
from helios_jax.data.loading import Batches, LoaderOptions
from helios_jax.data.sections import section_window
from helios_jax.data.source import RecordSource

from .toy import toy_record, write_damaged, write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven clips of 2x3 and seven of 4x2, of 3 to 6 sections, and one that is too short."""
    records = [toy_record(f"wide-{i}", 3 + i % 4, tokens=1 + i) for i in range(11)]
    records += [toy_record(f"tall-{i}", 3 + i % 4, 4, 2) for i in range(7)]
    records.append(toy_record("short-0", 2))
    return write_dataset(tmp_path_factory.mktemp("data") / "set", records)


def batches(
    folder, batch_size=2, seed=0, text_rows=16, read_threads=2, split="train", process=(0, 1)
) -> Batches[TrainBatch]:
    config = DataConfig(
        train=(str(folder),),
        validation=(str(folder),),
        batch_size=batch_size,
        read_threads=read_threads,
    )
    return load_batches(
        config, config.loader(*process), seed=seed, text_rows=text_rows, split=split
    )


def assert_same(a: TrainBatch, b: TrainBatch):
    for field in TrainBatch._fields:
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)


@pytest.mark.parametrize(("c", "zeros"), [(0, 19), (1, 10), (2, 1), (3, 0), (4, 0)])
def test_window_of_a_section(c, zeros):
    """History ends where the section begins and is zero before the clip; the anchor is the clip's
    first frame, and zero for its first section.
    """
    latents = toy_record("clip-0", 5).latents
    history, target, anchor = section_window(latents, c)
    first = 9 * c + 1
    assert history.dtype == target.dtype == anchor.dtype == np.float32
    np.testing.assert_array_equal(target[:, 0, 0, 0], np.arange(first, first + 9))
    expected = [0] * zeros + list(range(first - 19 + zeros, first))
    np.testing.assert_array_equal(history[:, 1, 2, 1], expected)
    np.testing.assert_array_equal(anchor, np.full((1, 2, 3, 2), float(c > 0), np.float32))


def test_batch_holds_what_its_records_say(folder):
    """Shapes, dtypes, the prompt's features with zeros behind them, and who each sample is."""
    data = batches(folder)
    for batch in itertools.islice(data, data.batches_per_epoch):
        H, W = batch.target.shape[2:4]
        assert batch.target.shape == (2, 9, H, W, 2)
        assert batch.history.shape == (2, 19, H, W, 2)
        assert batch.anchor.shape == (2, 1, H, W, 2)
        assert batch.text.shape == (2, 16, 3)
        assert batch.text.dtype == data.source.info.text_dtype
        assert batch.length.dtype == np.int32
        assert batch.sample.dtype == np.uint32
        for row in range(2):
            entry = data.source.entries[batch.sample[row, 1]]
            number = int(entry.id.rpartition("-")[2])
            length = batch.length[row]
            assert (entry.height, entry.width, entry.tokens) == (H, W, length)
            np.testing.assert_array_equal(batch.text[row, :length].astype(np.float32), number + 1)
            np.testing.assert_array_equal(batch.text[row, length:].astype(np.float32), 0)
    data.close()


def test_the_first_frames_of_sections_alone(folder):
    """They are of the same records, sections and pasts as whole sections."""
    config = DataConfig(train=(str(folder),), batch_size=2, section_frames=2)
    cut = next(load_batches(config, config.loader(), seed=0, text_rows=16))
    whole = next(batches(folder))
    assert_same(cut, whole._replace(target=whole.target[:, :2]))


def test_an_epoch_shows_each_clip_once(folder):
    """Every clip at most once an epoch, only the remainder of each size left out, the sizes mixed,
    and another order in the next epoch.
    """
    data = batches(folder)
    assert data.batches_per_epoch == 11 // 2 + 7 // 2
    epochs = []
    for _ in range(2):
        steps = itertools.islice(data, data.batches_per_epoch)
        epochs.append([batch.sample for batch in steps])
    for number, epoch in enumerate(epochs):
        samples = np.concatenate(epoch)
        assert set(samples[:, 0]) == {number}
        assert len(set(samples[:, 1])) == 16
        assert "short-0" not in {data.source.entries[record].id for record in samples[:, 1]}
    assert not np.array_equal(epochs[0], np.stack(epochs[1]) - [1, 0])
    sizes = [data.source.entries[samples[0, 1]].height for samples in epochs[0]]
    assert sizes not in (sorted(sizes), sorted(sizes, reverse=True))
    data.close()


def test_sections_are_drawn_anew_each_epoch(folder):
    """A record's section changes from epoch to epoch, every section comes up, and records do not
    change in step with one another.
    """
    data = batches(folder, read_threads=0)
    seen = {}
    for batch in itertools.islice(data, 40 * data.batches_per_epoch):
        for target, (_, record) in zip(batch.target, batch.sample):
            seen.setdefault(int(record), []).append(int(target[0, 0, 0, 0]) // 9)
    for record, sections in seen.items():
        assert set(sections) == set(range(data.source.entries[record].sections))
    assert len({tuple(sections[:8]) for sections in seen.values()}) > 12


def test_batches_do_not_depend_on_how_many_processes_there_are(folder):
    """Two processes' rows are the one process's batch, in equal numbers and disjoint."""
    whole = batches(folder, batch_size=4)
    parts = [batches(folder, batch_size=4, process=(i, 2)) for i in range(2)]
    assert len({data.batches_per_epoch for data in (whole, *parts)}) == 1
    for batch, *shares in itertools.islice(zip(whole, *parts), 7):
        assert_same(batch, TrainBatch(*map(np.concatenate, zip(*shares))))
        assert not set(shares[0].sample[:, 1]) & set(shares[1].sample[:, 1])
    for data in (whole, *parts):
        data.close()


@pytest.mark.parametrize("step", [0, 1, 7, 8, 21])
def test_resume_goes_on_with_the_very_same_batches(folder, step):
    """From the state of any step, within an epoch and at its end, whatever was read ahead, and
    through JSON.
    """
    straight = batches(folder)
    for _ in range(step):
        next(straight)
    state = json.dumps(straight.get_state())
    resumed = batches(folder, read_threads=0)
    next(resumed)
    resumed.set_state(json.loads(state))
    for _ in range(9):
        assert_same(next(straight), next(resumed))
    assert straight.get_state() == resumed.get_state()
    straight.close()


def test_a_state_of_other_data_is_refused(folder):
    """Another seed or batch size would silently train on other clips."""
    state = batches(folder).get_state()
    for other in (batches(folder, seed=1), batches(folder, batch_size=1)):
        with pytest.raises(DataError, match="not what the state was saved with"):
            other.set_state(state)


def test_validation_is_one_pass_and_always_the_same(folder):
    """Two passes are equal, and end."""
    first, second = (list(batches(folder, split="validation")) for _ in range(2))
    assert len(first) == len(second) == 8
    for pair in zip(first, second):
        assert_same(*pair)


def test_bad_records_are_replaced_counted_and_named(tmp_path, caplog):
    """A flipped bit, a shape that the index does not know, and a shard cut short: training goes on,
    reproducibly, and the log names each once.
    """
    write_damaged(tmp_path)
    bad = {1, 3, 6, 7, 8}
    with caplog.at_level(logging.WARNING):
        data = batches(tmp_path, batch_size=4)
        epochs = list(itertools.islice(data, 2 * data.batches_per_epoch))
    assert data.batches_per_epoch == 3
    assert data.replaced >= 2 * len(bad)
    for batch in epochs:  # a replaced row keeps its sample, and shows another clip
        shown = batch.text[:, 0, 0].astype(int) - 1
        assert not bad & set(shown)
        assert {sample for sample, clip in zip(batch.sample[:, 1], shown) if sample != clip} <= bad
    names = [record.message for record in caplog.records]
    assert len(names) == len(bad)
    for number in bad:
        assert any(f"(clip-{number})" in name for name in names)
    again = [batches(tmp_path, batch_size=4, process=(i, 2)) for i in range(2)]
    for batch, *shares in zip(epochs, *again):
        assert_same(batch, TrainBatch(*map(np.concatenate, zip(*shares))))
    state = data.get_state()
    again[0].set_state(state)
    assert again[0].replaced == data.replaced


def test_a_step_costs_the_same_however_many_records_there_are(folder):
    """Nothing as long as an epoch is made for a row: with a million clips it would take longer than
    the training.
    """
    reader = BatchReader(RecordSource([folder]), LoaderOptions(batch_size=2), 0, 16, 0)
    order = np.broadcast_to(np.int64(0), (1_000_000,))
    tracemalloc.start()
    load_batch(reader, PlannedBatch(0, order, 999_998))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_what_takes_a_records_place_is_not_in_the_batch_already(tmp_path):
    """A batch does not show one clip twice while there are others."""
    folder = write_dataset(
        tmp_path / "set", [toy_record(f"clip-{i}") for i in range(8)], per_shard=1
    )
    (folder / "clips-00000.array_record").unlink()
    data = batches(folder, batch_size=4)
    for batch in itertools.islice(data, 8 * data.batches_per_epoch):
        assert len(set(batch.text[:, 0, 0].tolist())) == 4
    assert data.replaced == 8
    data.close()


def test_nothing_readable_is_an_error(tmp_path):
    """Where not one record of a size is left, training ends with the cause."""
    folder = write_dataset(tmp_path / "set", [toy_record(f"clip-{i}") for i in range(3)])
    next(folder.glob("*.array_record")).unlink()
    match = r"not one of 3 records of a size can be read; the last: .*No such file"
    with pytest.raises(DataError, match=match):
        next(batches(folder))


def test_wrong_configurations_fail_before_anything_is_read(folder):
    """Each with the name of what to change."""
    for match, options in {
        "batch_size=16 clips of one size are needed.*11 of 2x3, 7 of 4x2": dict(batch_size=16),
        "batch_size=3 must be a multiple of the 2 process": dict(batch_size=3, process=(0, 2)),
        "the prompt of wide-10 has 11 tokens and text_rows=10": dict(text_rows=10),
    }.items():
        with pytest.raises(DataError, match=match):
            batches(folder, **options)
    config = DataConfig(train=(str(folder),))
    with pytest.raises(DataError, match=r"data\.validation names no folder"):
        load_batches(config, config.loader(), seed=0, text_rows=16, split="validation")


def test_sizes_with_too_few_clips_are_logged(folder, caplog):
    """A batch of eight cannot be made of seven clips of one size: they are left out, and the log
    says so.
    """
    with caplog.at_level(logging.WARNING):
        data = batches(folder, batch_size=8)
    assert data.batches_per_epoch == 1
    assert "sizes with fewer clips than batch_size=8 are left out" in caplog.text
