"""Videos and captions to records: good inputs are encoded as they should be, bad ones are left out
and named.
"""

import csv
import dataclasses
import functools
import json
import subprocess
from pathlib import Path

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax import media
from helios_jax.config import HeliosConfig, TextEncoderConfig, TransformerConfig, VAEConfig
from helios_jax.data.batches import DataConfig, load_batches
from helios_jax.data.encoders import Encoders, encode_caption, random_encoders
from helios_jax.data.errors import DataError
from helios_jax.data.jobs import (
    Clip,
    EncodeConfig,
    Job,
    encode_record,
    open_video,
    video_jobs,
    write_records,
)
from helios_jax.data.shards import read_skipped
from helios_jax.data.source import RecordSource
from helios_jax.data.tables import ListedClip, read_captions
from helios_jax.errors import HeliosError
from helios_jax.models.tokenizer import TruncatedPromptWarning
from helios_jax.world import render, sample_scene
from helios_jax.world.jobs import WorldClips, world_jobs

MODEL = HeliosConfig(
    transformer=TransformerConfig(
        num_attention_heads=1,
        attention_head_dim=6,
        rope_dim=(2, 2, 2),
        ffn_dim=8,
        num_layers=1,
        text_dim=8,
        freq_dim=8,
    ),
    vae=VAEConfig(base_dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1),
    text_encoder=TextEncoderConfig(
        vocab_size=64, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, max_sequence_length=64
    ),
)
CONFIG = EncodeConfig(height=16, width=32, fps=8, frames=5, min_frames=15)


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return random_encoders(MODEL)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Three good videos of 15, 18 and 23 frames, and one each that is too short, damaged, missing
    and without a caption; as CSV and JSONL.
    """
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for i, frames in enumerate((15, 18, 23, 9, 20, 15)):
        with media.open_video_writer(folder / f"{i}.mp4", CONFIG.fps) as writer:
            writer.write(render(sample_scene(0, i), frames, 16, 32, CONFIG.fps))
        size = "large" if i % 2 else "small"
        lines.append((f"{i}.mp4", f"clip {i}, the {size} one" if i < 5 else " \n"))
    damaged = (folder / "4.mp4").read_bytes()
    (folder / "4.mp4").write_bytes(damaged[: len(damaged) // 2])
    lines.append(("6.mp4", "is not there"))
    with (folder / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video", "caption"), *lines])
    (folder / "clips.jsonl").write_text(
        "".join(json.dumps({"path": path, "caption": caption}) + "\n" for path, caption in lines)
    )
    return folder


def encode(folder, jobs, encoders, settings=(), clips_per_shard=2, config=CONFIG, **options):
    info = config.info(encoders)
    return write_records(
        folder, info, jobs, list(settings), clips_per_shard=clips_per_shard, **options
    )


def contents(folder):
    """Every file of a dataset, byte for byte."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("table", ["clips.csv", "clips.jsonl"])
def test_good_videos_are_encoded_and_bad_ones_are_listed(tmp_path, clips, encoders, table):
    """Each bad input is counted by kind and named with its reason; the good ones have a record
    each, ready to be trained on.
    """
    jobs = video_jobs(read_captions(clips / table).clips, encoders, CONFIG)
    summary = encode(tmp_path, jobs, encoders)
    assert "3 clips in 4 of 4 shards; 4 skipped" in summary
    for kind in ("too short", "unreadable video", "empty caption", "missing file"):
        assert f"1 {kind}" in summary
    skipped = {
        Path(line["source"]).name: (line["kind"], line["reason"]) for line in read_skipped(tmp_path)
    }
    assert sorted(skipped) == ["3.mp4", "4.mp4", "5.mp4", "6.mp4"]
    assert "has 9 frame(s) at 8 fps; at least 15 are needed" in skipped["3.mp4"][1]
    assert skipped["4.mp4"][1].startswith(f"{clips / '4.mp4'}: damaged")
    source = RecordSource([tmp_path])
    assert [(entry.sections, entry.frames, entry.prompt) for entry in source.entries] == [
        (3, 15, "clip 0, the small one"),
        (3, 18, "clip 1, the large one"),
        (4, 23, "clip 2, the small one"),
    ]
    assert [source.read(i).latents.shape for i in range(3)] == [(n, 2, 2, 4, 16) for n in (3, 3, 4)]
    data = DataConfig(train=(str(tmp_path),), batch_size=3)
    batch = next(load_batches(data, data.loader(), seed=0, text_rows=64))
    assert batch.target.shape == (3, 2, 2, 4, 16)


def test_sections_are_encoded_each_by_itself(encoders):
    """A record's section is the VAE's latents of its 5 frames alone, in model space by float32
    constants; a sample differs from the mode.
    """
    frames = render(sample_scene(3, 0), 10, 16, 32)

    def clip():
        return Clip(10, iter(np.split(frames, 2)))

    config = dataclasses.replace(CONFIG, posterior="mode")
    record = encode_record(encoders, config, 0, "somewhere", "a ball", clip)
    vae = MODEL.vae
    posterior = jax.jit(
        lambda params, pixels: encoders.vae.apply({"params": params}, pixels, method="encode")
    )
    for i in range(2):
        pixels = jnp.asarray(frames[None, 5 * i : 5 * i + 5], jnp.float32) / 127.5 - 1
        mean, _ = posterior(encoders.vae_params, pixels)
        expected = (np.asarray(mean[0], np.float64) - vae.latents_mean) / np.asarray(
            vae.latents_std
        )
        np.testing.assert_allclose(record.latents[i], expected, atol=1e-5)
    samples = [
        encode_record(encoders, CONFIG, number, "somewhere", "a ball", clip).latents
        for number in (0, 0, 1)
    ]
    np.testing.assert_array_equal(samples[0], samples[1])
    assert (samples[0] != samples[2]).all()
    assert (samples[0] != record.latents).all()


def test_text_has_a_row_for_each_token(encoders):
    """Spaces and entities do not matter, and a caption beyond the encoder's length is cut."""
    plain = encode_caption(encoders, "a red ball")
    np.testing.assert_array_equal(plain, encode_caption(encoders, "  a red&nbsp;  ball\n"))
    assert 1 < len(plain) < 20
    with pytest.warns(TruncatedPromptWarning, match="left out are its last"):
        assert len(encode_caption(encoders, "a red ball " * 100)) == 64


def test_a_share_of_the_worlds_clips_has_the_empty_caption(encoders):
    """Its features are those that guidance compares with, of the end of sequence alone; about the
    share asked for, always the same clips.
    """
    half = WorldClips(count=12, num_frames=5, uncaptioned=0.5)
    prompts = [job.make().prompt for job in world_jobs(half, encoders, CONFIG)]
    assert 2 < prompts.count("") < 10
    again = world_jobs(half, encoders, CONFIG)
    assert [prompts[3], prompts[7]] == [again[3].make().prompt, again[7].make().prompt]
    all_clips = WorldClips(count=1, num_frames=5, uncaptioned=1.0)
    text = world_jobs(all_clips, encoders, CONFIG)[0].make().text
    np.testing.assert_array_equal(text, encode_caption(encoders, "").astype(text.dtype))
    assert len(text) == 1


def test_processes_share_the_work(tmp_path, encoders):
    """Two processes' shards are those of one, byte for byte."""
    jobs = world_jobs(WorldClips(count=5, num_frames=15), encoders, CONFIG)
    encode(tmp_path / "one", jobs, encoders)
    summaries = [encode(tmp_path / "two", jobs, encoders, shard=i, of=2) for i in (1, 0)]
    assert "1 of 3 shards" in summaries[0]
    assert "5 clips in 3 of 3 shards; none skipped" in summaries[1]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, encoders):
    """Finished shards are kept, an unfinished one is made again, and the result is that of a run
    straight through.
    """
    jobs = world_jobs(WorldClips(count=5, num_frames=15), encoders, CONFIG)
    encode(tmp_path / "straight", jobs, encoders)
    made = []

    def make(i):
        made.append(i)
        if len(made) == 4:
            raise KeyboardInterrupt
        return jobs[i].make()

    counted = [Job(job.source, functools.partial(make, i)) for i, job in enumerate(jobs)]
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path / "broken", counted, encoders)
    (tmp_path / "broken" / ".clips-00001.array_record.partial-1").touch()  # as SIGKILL leaves it
    made[:] = range(10)
    encode(tmp_path / "broken", counted, encoders)
    assert made[10:] == [2, 3, 4]
    assert contents(tmp_path / "straight") == contents(tmp_path / "broken")
    with pytest.raises(DataError, match="other inputs or settings"):
        encode(tmp_path / "broken", jobs[:4], encoders)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.txt", "", r"captions are read from \.csv, \.jsonl, \.json files"),
        ("a.csv", "file,text\na,b\n", "record 1 has no path: .* it has file, text"),
        ("a.csv", "path,title\na,b\n", "record 1 has no caption: .* it has path, title"),
        ("a.json", '{"path": "a.mp4", "cap": ["a"]}', "holds no list"),
        ("a.json", '[{"path": "a", "cap": ["a"], "cut": [9, 3]}]', r"cut=\[9, 3\] must be"),
        ("a.json", '[{"path": "a", "cap": ["a"], "cut": "all"}]', "cut='all' must be 2 whole"),
        ("a.json", '[{"path": "a", "cap": ["a"], "crop": [0, 8, 4]}]', "must be 4 whole numbers"),
        ("a.csv", "path,caption\n", "it has no rows"),
        (
            "a.jsonl",
            '{"path": "a.mp4", "caption": "a"}\n{"path": "b.mp4"}\n',
            "record 2 has no caption",
        ),
        ("a.jsonl", "[1]\n", "record 1 has no path"),
        ("a.jsonl", "\n", "lists no videos"),
        (
            "a.jsonl",
            '{"path": "a.mp4", "caption": "\\ud800"}',
            "record 1 has text that is not Unicode",
        ),
        ("a.jsonl", "{", "cannot be read"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=match):
        read_captions(tmp_path / name)
    with pytest.raises(DataError, match="No such file"):
        read_captions(tmp_path / "b.csv")


LISTS = {
    "original.json": json.dumps(
        [
            {
                "path": "clips/a.mp4",
                "cap": ["a red ball", "a ball"],
                "cut": [3, 27],
                "crop": [8, 40, 0, 24],
                "fps": 8.0,
                "num_frames": 40,
                "resolution": {"height": 32, "width": 64},
                "aesthetic": 5.1,
            }
        ]
    ),
    "metadata.csv": "file_name,text,license\nclips/a.mp4,a red ball,CC0\n",
    "metadata.jsonl": '{"file_name": "clips/a.mp4", "text": "a red ball", "license": "CC0"}\n',
    "cuts.csv": 'video_path,prompt,cut\nclips/a.mp4,a red ball,"[3, 27]"\n',
}


@pytest.mark.parametrize(
    ("name", "excerpt", "notes"),
    [
        (
            "original.json",
            media.Excerpt((3, 27), (8, 40, 0, 24)),
            [
                "fps, num_frames, resolution: what the video files say counts",
                "not read: aesthetic",
                "1 videos have several captions: the first counts",
            ],
        ),
        ("metadata.csv", media.Excerpt(), ["not read: license"]),
        ("metadata.jsonl", media.Excerpt(), ["not read: license"]),
        ("cuts.csv", media.Excerpt((3, 27)), []),
    ],
)
def test_lists_as_people_have_them_are_read_and_nothing_in_them_is_ignored(
    tmp_path, name, excerpt, notes
):
    path = tmp_path / name
    path.write_text(LISTS[name])
    found = read_captions(path)
    assert found.clips == [(tmp_path / "clips/a.mp4", "a red ball", excerpt)]
    assert found.notes == [f"{path}: {note}" for note in notes]


def test_a_part_of_a_video_is_encoded_as_if_it_were_a_file_of_its_own(encoders, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (40, 24, 48, 3), np.uint8)
    lossless = [
        f"-f rawvideo -pix_fmt rgb24 -s {w}x24 -r 8 -i - -c:v ffv1".split() for w in (48, 32)
    ]
    part = np.ascontiguousarray(frames[3:27, :, 8:40])
    for name, options, content in zip("ab", lossless, (frames, part)):
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            *options,
            tmp_path / f"{name}.mkv",
        ]
        subprocess.run(command, input=content.tobytes(), check=True)
    excerpt = media.Excerpt((3, 27), (8, 40, 0, 24))
    clips = [
        ListedClip(tmp_path / "a.mkv", "a red ball", excerpt),
        ListedClip(tmp_path / "b.mkv", "a red ball"),
        ListedClip(tmp_path / "a.mkv", "a red ball", media.Excerpt(crop=(8, 60, 0, 24))),
    ]
    cut, whole, outside = video_jobs(clips, encoders, CONFIG)
    assert cut.source == f"{tmp_path}/a.mkv frames 3 to 27 cropped to x 8 to 40, y 0 to 24"
    made = [job.make()._replace(metadata={}) for job in (cut, whole)]
    assert made[0].latents.shape[0] == 4  # 24 frames are four sections of 5
    np.testing.assert_array_equal(
        open_video(clips[0], CONFIG).num_frames, open_video(clips[1], CONFIG).num_frames
    )
    sections = [list(open_video(clip, CONFIG).sections) for clip in clips[:2]]
    np.testing.assert_array_equal(sections[0], sections[1])
    with pytest.raises(media.MediaError, match="the crop lies outside of its frames"):
        outside.make()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(height=20), "multiples of 16"),
        (dict(frames=32), r"1 \+ 4 k"),
        (dict(max_sections=0), "at least 1"),
    ],
)
def test_sizes_are_checked_before_anything_is_loaded(change, match):
    with pytest.raises(HeliosError, match=match):
        dataclasses.replace(CONFIG, **change).check(MODEL.vae)
