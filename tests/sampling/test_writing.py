"""Streams on disk: live or whole, with latents and statistics, cut back and gone on with."""

import dataclasses
import os
import shutil

import numpy as np
import pytest

from helios_jax.locks import LockedError
from helios_jax.media import MediaError, live_frames, load_latents, save_latents
from helios_jax.readers import ReadError
from helios_jax.sampling.loop import ChunkRecord
from helios_jax.sampling.request import RequestError, make_request
from helios_jax.sampling.state import load_state
from helios_jax.sampling.statistics import load_statistics
from helios_jax.sampling.writing import StreamFiles, StreamWriter
from helios_jax.writers import WriteError

from .conftest import TOY

PROMPT = "a red ball rolls over green grass"


def files_in(folder, **changes):
    """A live video with all that can be kept of it."""
    names = dict(latents="a.safetensors", statistics="a.csv", curves="a.svg")
    paths = {kind: str(folder / name) for kind, name in names.items()}
    return StreamFiles(str(folder / "a.mp4"), **{"live": True, **paths, **changes})


def write(pipeline, files, request, **options):
    with StreamWriter(files, request) as writer:
        for _ in pipeline.stream(PROMPT, request, on_chunk=writer.write, **options):
            pass
    return writer


@pytest.fixture(scope="module")
def whole(pipeline, tmp_path_factory):
    """Three chunks in one run, of which the last is cut."""
    folder = tmp_path_factory.mktemp("whole")
    write(pipeline, files_in(folder), make_request(TOY, num_frames=70, height=64, width=64))
    return folder


def test_a_live_video_is_gone_on_with_as_if_it_had_never_stopped(pipeline, whole, tmp_path):
    """Video, latents and statistics of a shorter run, resumed: those of one run."""
    files = files_in(tmp_path)
    write(pipeline, files, make_request(TOY, num_frames=40, height=64, width=64))
    assert live_frames(tmp_path / "a.mp4") == [33, 40]
    state = load_state(tmp_path / "a.mp4.state")
    assert state.chunk == 1
    longer = make_request(TOY, num_frames=70, height=64, width=64)
    with StreamWriter(files, longer, start=state) as writer:
        for _ in pipeline.resume(state, num_frames=70, on_chunk=writer.write):
            pass
    assert (tmp_path / "a.mp4").read_bytes() == (whole / "a.mp4").read_bytes()
    ours, _ = load_latents(tmp_path / "a.safetensors")
    theirs, metadata = load_latents(whole / "a.safetensors")
    np.testing.assert_array_equal(ours, theirs)
    assert metadata == {"seed": "0"}
    assert load_statistics(tmp_path / "a.csv") == load_statistics(whole / "a.csv")
    assert len(load_statistics(tmp_path / "a.csv")) == 3
    assert (tmp_path / "a.svg").exists()


def interrupt(pipeline, files, request):
    """A run that fails when its second chunk has been made."""
    writer = StreamWriter(files, request)

    def run():
        with writer:
            for chunk, _ in enumerate(pipeline.stream(PROMPT, request, on_chunk=writer.write)):
                if chunk == 1:
                    raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run()
    return writer


def test_a_live_run_that_fails_leaves_whole_chunks(pipeline, whole, tmp_path):
    """In the video, the latents and the statistics, with a state to go on from; it says so."""
    writer = interrupt(
        pipeline, files_in(tmp_path), make_request(TOY, num_frames=70, height=64, width=64)
    )
    assert live_frames(tmp_path / "a.mp4") == [33, 66]
    assert load_state(tmp_path / "a.mp4.state").chunk == 2
    theirs, _ = load_latents(whole / "a.safetensors")
    np.testing.assert_array_equal(load_latents(tmp_path / "a.safetensors")[0], theirs[:, :18])
    assert writer.describe() == [
        f"66 frames in {tmp_path / 'a.mp4'}",
        f"18 latent frames in {tmp_path / 'a.safetensors'}",
        f"statistics in {tmp_path / 'a.csv'}",
    ]


@pytest.mark.parametrize("name", ["a.mp4", "a.safetensors", "images"])
def test_a_run_that_fails_leaves_nothing_where_it_is_not_live(pipeline, tmp_path, name):
    request = make_request(TOY, num_frames=99, height=64, width=64)
    writer = interrupt(pipeline, StreamFiles(str(tmp_path / name)), request)
    assert list(tmp_path.iterdir()) == []
    assert writer.describe() == []


def test_each_video_of_a_batch_has_its_latents(pipeline, tmp_path):
    """Numbered, as :func:`load_latents` and safetensors read them; nothing is decoded for them."""
    request = make_request(TOY, batch=2, num_frames=40, height=64, width=64)
    writer = StreamWriter(StreamFiles(str(tmp_path / "a.safetensors")), request, prompt=PROMPT)
    assert writer.output == "latent"
    with writer:
        chunks = list(pipeline.stream(PROMPT, request, output=writer.output, on_chunk=writer.write))
    expected = np.concatenate(chunks, axis=1)
    for number in range(2):
        latents, metadata = load_latents(tmp_path / f"a_{number}.safetensors")
        np.testing.assert_array_equal(latents, expected[number : number + 1])
        assert metadata == {"seed": "0", "prompt": PROMPT}


def test_what_cannot_be_written_is_said_by_the_writer(pipeline, tmp_path):
    """By the next chunk, or by the end."""
    request = make_request(TOY, num_frames=33, height=64, width=64)
    with (
        pytest.raises(MediaError, match="does not exist"),
        StreamWriter(StreamFiles(str(tmp_path / "absent" / "a.mp4")), request),
    ):
        pass


def test_a_second_writer_of_a_file_is_refused_before_it_opens_anything(pipeline, tmp_path):
    """Whichever of its files the other one has, and before either has written a chunk."""
    request = make_request(TOY, num_frames=33, height=64, width=64)
    table = str(tmp_path / "a.csv")
    for first, second in (
        (files_in(tmp_path), files_in(tmp_path)),
        (StreamFiles(str(tmp_path / "a.mp4")), StreamFiles(str(tmp_path / "a.mp4"), live=True)),
        (files_in(tmp_path), StreamFiles(str(tmp_path / "b.gif"), statistics=table)),
    ):
        with StreamWriter(first, request).lock():
            other = StreamWriter(second, request)
            with pytest.raises(LockedError, match=f"being written by process {os.getpid()} on"):
                other.__enter__()
        assert list(tmp_path.iterdir()) == []


def test_one_file_for_two_things_is_refused(tmp_path):
    request = make_request(TOY, num_frames=33, height=64, width=64)
    name = str(tmp_path / "a.safetensors")
    with (
        pytest.raises(RequestError, match="is named twice"),
        StreamWriter(StreamFiles(name, latents=name), request),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_have_left_is_removed(pipeline, tmp_path):
    """That of the files that are written now; what belongs to others stays."""
    request = make_request(TOY, num_frames=33, height=64, width=64)
    for name in ("a.mp4", "a.mp4.state", "a.safetensors", "a.csv", "a.svg", "b.mp4"):
        (tmp_path / f".{name}.partial-1").mkdir()
    write(pipeline, files_in(tmp_path), request)
    assert [path.name for path in tmp_path.glob(".*")] == [".b.mp4.partial-1"]


def test_a_video_that_replaces_another_does_not_have_its_state(pipeline, whole, tmp_path):
    """Until its own first state is written there is none."""
    for path in whole.iterdir():
        shutil.copy(path, tmp_path)
    request = make_request(TOY, num_frames=70, height=64, width=64, seed=1)
    writer = StreamWriter(files_in(tmp_path), request)
    record = record_of(pipeline, request)

    def begin():
        with writer:
            (tmp_path / "a.safetensors").unlink()
            (tmp_path / "a.safetensors").mkdir()  # latents cannot be written, after the video
            writer.write(record)

    with pytest.raises(MediaError, match=r"a\.safetensors cannot be written"):
        begin()
    assert live_frames(tmp_path / "a.mp4") == [33]
    assert not (tmp_path / "a.mp4.state").exists()


def record_of(pipeline, request):
    """The first chunk of a video."""
    records = []
    next(pipeline.stream(PROMPT, request, on_chunk=records.append))
    return records[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda latents: latents[:, :9], "has 9 latent frames, but 18 of the video are made"),
        (lambda latents: latents[..., :4, :], "has latents of shape .* the video has"),
        (lambda latents: np.concatenate([latents] * 2), "has latents of shape"),
        (lambda latents: latents + 1, "has the latents of another video"),
    ],
)
def test_latents_of_another_video_are_not_gone_on_with(pipeline, tmp_path, change, message):
    request = make_request(TOY, num_frames=66, height=64, width=64)
    files = files_in(tmp_path, statistics=None, curves=None)
    write(pipeline, files, request)
    latents, metadata = load_latents(tmp_path / "a.safetensors")
    save_latents(tmp_path / "a.safetensors", change(latents), metadata)
    state = load_state(tmp_path / "a.mp4.state")
    with pytest.raises(RequestError, match=message), StreamWriter(files, request, start=state):
        pass
    assert live_frames(tmp_path / "a.mp4") == [33, 66]


def test_latents_that_were_begun_late_say_so(pipeline, tmp_path):
    """And are gone on with."""
    request = make_request(TOY, num_frames=33, height=64, width=64)
    write(pipeline, files_in(tmp_path, latents=None), request)
    for frames in (66, 99):
        state = load_state(tmp_path / "a.mp4.state")
        longer = make_request(TOY, num_frames=frames, height=64, width=64)
        with StreamWriter(files_in(tmp_path), longer, start=state) as writer:
            for _ in pipeline.resume(state, num_frames=frames, on_chunk=writer.write):
                pass
    latents, metadata = load_latents(tmp_path / "a.safetensors")
    assert metadata == {"seed": "0", "first_chunk": "1"}
    expected = pipeline.generate(PROMPT, longer, output="latent")
    np.testing.assert_array_equal(latents, expected[:, 9:])


def test_statistics_of_another_kind_are_not_gone_on_with(pipeline, tmp_path):
    request = make_request(TOY, num_frames=33, height=64, width=64)
    write(pipeline, files_in(tmp_path), request)
    (tmp_path / "a.csv").write_text("chunk,video,colour\n0,0,1\n")
    state = load_state(tmp_path / "a.mp4.state")
    longer = make_request(TOY, num_frames=66, height=64, width=64)
    writer = StreamWriter(files_in(tmp_path), longer, start=state)

    def go_on():
        with writer:
            for _ in pipeline.resume(state, num_frames=66, on_chunk=writer.write):
                pass

    with pytest.raises(ReadError, match="has other columns"):
        go_on()
    assert load_state(tmp_path / "a.mp4.state").chunk == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.safetensors"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_chunk_of_nan_is_said_and_not_a_grey_video(tmp_path, name, value):
    """It comes of broken weights, or of a setting far beyond any use."""
    request = make_request(TOY, num_frames=33, height=64, width=64)
    latents = np.zeros((1, *request.latent_shape), np.float32)
    latents[0, 3, 2, 1, 0] = value
    record = ChunkRecord(0, latents, np.zeros((1, 33, 64, 64, 3), np.uint8), None, None)
    files = StreamFiles(str(tmp_path / name))

    def write(files):
        with StreamWriter(files, request) as writer:
            writer.write(record)

    with pytest.raises(WriteError, match="chunk 0 has NaN or infinite values"):
        write(files)
    assert list(tmp_path.iterdir()) == []
    write(dataclasses.replace(files, verify=False))
    assert (tmp_path / name).exists()
