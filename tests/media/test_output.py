"""A path that cannot be written is known before anything is computed."""

import os
import pty
import sys

import imageio_ffmpeg
import pytest

from helios_jax.media import MediaError, check_apart, check_output, is_pipe, numbered, output_kind


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.MP4", "a.gif", "a.safetensors", "frames", "frames/", "v1.5/"]
)
def test_good_paths_pass_and_nothing_is_left(tmp_path, name):
    """Checking creates nothing."""
    check_output(f"{tmp_path}/{name}")
    assert not list(tmp_path.iterdir())


def test_relative_paths_and_existing_files_pass(tmp_path, monkeypatch):
    """Files are replaced, so is an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    (tmp_path / "frames").mkdir()
    check_output("a.mp4")
    check_output("frames")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "a.avi",
            r"cannot write \.avi files; known: \.mp4 .*\.gif .*\.safetensors .*folder of PNG",
        ),
        ("missing/a.mp4", r"the folder .*/missing does not exist; create it first"),
        ("file.txt/a.mp4", r"the folder .*/file\.txt does not exist"),
        ("folder.mp4", "is a folder; name a file"),
        ("file.txt/", "is a file; PNG images need a folder"),
        ("a\0.mp4", "no file can have such a name"),
        ("full", "is not empty"),
        ("x" * 300 + ".mp4", "cannot be written: File name too long"),
    ],
)
def test_bad_paths_are_refused(tmp_path, name, message):
    """In one line that says what is wrong."""
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file.txt").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/00000.png").touch()
    with pytest.raises(MediaError, match=message) as error:
        check_output(f"{tmp_path}/{name}")
    assert "\n" not in str(error.value)


def test_overwriting_spares_what_is_not_ours(tmp_path):
    """Only a folder of numbered images may be overwritten."""
    (tmp_path / "00000.png").touch()
    check_output(tmp_path, overwrite=True)
    (tmp_path / "holiday.png").touch()
    with pytest.raises(MediaError, match=r"holiday\.png"):
        check_output(tmp_path, overwrite=True)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs a folder that nobody can write to")
def test_folder_without_permission_is_refused():
    """Found by trying, so it holds for full disks and read-only mounts too."""
    with pytest.raises(MediaError, match=r"/proc/a\.mp4 cannot be written"):
        check_output("/proc/a.mp4")


def test_missing_ffmpeg_is_known_beforehand(tmp_path, monkeypatch):
    """Videos need it, latents do not."""

    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(MediaError, match="needs ffmpeg"):
        check_output(tmp_path / "a.mp4")
    check_output(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("out/clip.mp4", ["out/clip_0.mp4", "out/clip_1.mp4"]),
        ("frames", ["frames_0", "frames_1"]),
        ("v1.5/", ["v1.5_0/", "v1.5_1/"]),
    ],
)
def test_numbered(path, names):
    """Several results are numbered before the suffix; one keeps its name."""
    assert numbered(path, 2) == names
    assert numbered(path, 1) == [path]


def test_pipes_take_one_mp4(tmp_path):
    """Standard output and named pipes of any name; several videos have no place there."""
    os.mkfifo(tmp_path / "pipe")
    for path in ("-", str(tmp_path / "pipe")):
        assert is_pipe(path)
        assert output_kind(path) == ".mp4"
        check_output(path)
        assert numbered(path, 1) == [path]
        with pytest.raises(MediaError, match="takes one video, not 2"):
            numbered(path, 2)
    assert not is_pipe(tmp_path / "a.mp4")


def test_a_terminal_is_no_place_for_video(monkeypatch):
    """Known beforehand: nobody wants to read an mp4."""
    ends = pty.openpty()
    with os.fdopen(ends[0]), os.fdopen(ends[1], "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        with pytest.raises(MediaError, match="standard output is a terminal"):
            check_output("-")


@pytest.mark.parametrize("output", ["in/a.png", "soft", "hard.png", "in/../in/a.png"])
def test_a_result_does_not_take_the_place_of_what_is_read_for_it(tmp_path, output):
    """A file by whatever name, or a folder around it."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").touch()
    (tmp_path / "soft").symlink_to(folder)
    (tmp_path / "hard.png").hardlink_to(folder / "a.png")
    with pytest.raises(MediaError, match="would take the place of"):
        check_apart([tmp_path / "new", tmp_path / output], [tmp_path / "no", folder / "a.png"])
    check_apart([tmp_path / "new", folder / "b.png", "-"], [folder, folder / "a.png", "no"])
