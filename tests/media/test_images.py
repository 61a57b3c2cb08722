"""An image of any common kind becomes upright 8-bit RGB of the size asked for, and what was done is
said.
"""

import os

import numpy as np
import pytest
from PIL import Image

from helios_jax.media import MediaError, read_image

Y, X = np.mgrid[:45, :61]
PICTURE = np.stack([4 * X, 5 * Y, 2 * (X + Y)], axis=-1).astype(np.uint8)
"""45 rows of 61 pixels; no pixel is like its neighbour."""


def read(path, height=45, width=61, fit="stretch"):
    return read_image(path, height, width, fit)[0]


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp"])
def test_formats_without_loss_keep_every_pixel(tmp_path, name):
    """A size that fits is not resampled."""
    Image.fromarray(PICTURE).save(tmp_path / name, lossless=True)
    pixels, description = read_image(tmp_path / name, 45, 61)
    np.testing.assert_array_equal(pixels, PICTURE)
    assert pixels.dtype == np.uint8
    assert description.endswith("image, 61x45")


def test_jpeg(tmp_path):
    """Up to what JPEG loses, whatever the file is called."""
    Image.fromarray(PICTURE).save(tmp_path / "a.dat", "JPEG", quality=95, subsampling=0)
    assert np.abs(read(tmp_path / "a.dat").astype(int) - PICTURE).max() <= 8


def test_grey_and_black_and_white(tmp_path):
    """Three equal channels."""
    grey = PICTURE[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, -1))
    Image.fromarray(grey > 99).save(tmp_path / "line.png")
    np.testing.assert_array_equal(read(tmp_path / "line.png")[..., 1], 255 * (grey > 99))


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_16_bits(tmp_path, name):
    """Scaled to 8, not clipped at 255: 65535 is white, 32768 a middle grey."""
    grey = 257 * PICTURE[..., 0].astype(np.uint16)
    grey[0, :4] = 0, 128, 129, 32768
    Image.fromarray(grey).save(tmp_path / name)
    pixels, description = read_image(tmp_path / name, 45, 61)
    np.testing.assert_array_equal(pixels[1:, :, 2], PICTURE[1:, :, 0])
    assert pixels[0, :4, 0].tolist() == [0, 0, 1, 128]
    assert "16 bits reduced to 8" in description


def test_palette(tmp_path):
    """Colours, not their numbers."""
    image = Image.fromarray(PICTURE).quantize(200)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    """Whatever colour is hidden under it; halfway there is a mixture."""
    image = Image.new("RGBA", (61, 45), (40, 40, 40, 255))
    image.paste((0, 0, 0, 0), (0, 0, 20, 45))
    if mode == "P":
        image = image.quantize(2)
    else:
        image.paste((40, 40, 40, 128), (20, 0, 40, 45))
        image = image.convert(mode)
    image.save(tmp_path / "a.png")
    pixels, description = read_image(tmp_path / "a.png", 45, 61)
    assert (pixels[:, :20] == 255).all()
    assert (pixels[:, 40:] == 40).all()
    assert mode == "P" or (np.abs(pixels[:, 20:40].astype(int) - 147) <= 1).all()
    assert "laid on white" in description


def test_transparent_color_of_a_png(tmp_path):
    """The older kind of transparency, one colour of an RGB image."""
    Image.fromarray(PICTURE).save(tmp_path / "a.png", transparency=tuple(PICTURE[7, 9].tolist()))
    pixels = read(tmp_path / "a.png")
    assert pixels[7, 9].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(pixels[8], PICTURE[8])


@pytest.mark.parametrize("name", ["a.tiff", "a.jpg"])
def test_cmyk(tmp_path, name):
    """Ink becomes light."""
    Image.new("CMYK", (61, 45), (0, 255, 255, 0)).save(tmp_path / name)
    np.testing.assert_allclose(read(tmp_path / name).reshape(-1, 3).mean(0), [255, 0, 0], atol=3)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation(tmp_path, orientation, upright):
    """A photograph taken with the camera on its side stands upright; the size that counts is the
    upright one.
    """
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=exif)
    expected = upright(PICTURE)
    pixels, description = read_image(tmp_path / "a.png", *expected.shape[:2])
    np.testing.assert_array_equal(pixels, expected)
    assert ("turned upright" in description) == (orientation != 1)


def test_animation(tmp_path):
    """Its first frame."""
    frames = [Image.new("RGB", (61, 45), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "a.gif") == (255, 0, 0)).all()


def test_stretching_is_what_the_reference_does(tmp_path):
    """Pillow's Lanczos to exactly the size asked for."""
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(PICTURE).resize((96, 32), Image.Resampling.LANCZOS))
    pixels, description = read_image(tmp_path / "a.png", 32, 96, "stretch")
    np.testing.assert_array_equal(pixels, expected)
    assert description.endswith("PNG image, 61x45, resized to 96x32 with Lanczos")


THIRDS = np.repeat(np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8), 30, 0)
"""A line: 30 pixels red, 30 green, 30 blue."""


@pytest.mark.parametrize("tall", [False, True])
def test_cropping_keeps_the_middle(tmp_path, tall):
    """Of 90x30 pixels, red, green, blue from side to side, a square shows the green; standing
    likewise. Only the filter looks over its edges.
    """
    picture = np.repeat(THIRDS[None], 30, 0)
    Image.fromarray(picture.swapaxes(0, 1) if tall else picture).save(tmp_path / "a.png")
    pixels, description = read_image(tmp_path / "a.png", 60, 60)
    pixels = pixels.swapaxes(0, 1) if tall else pixels
    assert (pixels[:, 6:-6] == (0, 255, 0)).all()
    np.testing.assert_array_equal(
        pixels, pixels[:, ::-1, ::-1]
    )  # as much red on one side as blue on the other
    assert description.endswith(
        f"{'30x90' if tall else '90x30'}, cropped to 30x30, resized to 60x60 with Lanczos"
    )


@pytest.mark.parametrize("tall", [False, True])
def test_padding_shows_everything(tmp_path, tall):
    """All three colours between black bars of equal width."""
    picture = np.repeat(THIRDS[None], 30, 0)
    Image.fromarray(picture.swapaxes(0, 1) if tall else picture).save(tmp_path / "a.png")
    pixels, description = read_image(tmp_path / "a.png", 90, 90, "pad")
    pixels = pixels.swapaxes(0, 1) if tall else pixels
    assert not pixels[:30].any()
    assert not pixels[60:].any()
    np.testing.assert_array_equal(pixels[30:60], picture)
    assert description.endswith(f"{'30x90' if tall else '90x30'}, padded to 90x90 with black")


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (299, 2), (61, 45)])
def test_every_shape_fits(tmp_path, fit, size):
    """Down to a pixel, and very long ones; one colour stays one colour."""
    Image.new("RGB", size, (10, 200, 90)).save(tmp_path / "a.png")
    pixels = read(tmp_path / "a.png", 32, 48, fit)
    assert pixels.shape == (32, 48, 3)
    assert ((pixels == (10, 200, 90)) | (fit == "pad" and pixels == 0)).all()
    assert (pixels == (10, 200, 90)).any()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.tiff"])
def test_truncated_files_are_refused(tmp_path, name):
    """Half a picture is not taken for a whole one."""
    noise = np.random.default_rng(0).integers(0, 256, (45, 61, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=rf"{name}: (damaged image|cannot be read|not an image)"):
        read(tmp_path / name)


def test_what_is_no_image_is_refused(tmp_path):
    """Missing, a folder, empty, text, without pixels, or numbers that are no brightness."""
    with pytest.raises(MediaError, match=r"a\.png: No such file"):
        read(tmp_path / "a.png")
    with pytest.raises(MediaError, match="Is a directory"):
        read(tmp_path)
    for content in (b"", b"a red ball", b"P6\n0 0\n255\n"):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(MediaError, match=r"not an image|cannot be read as an image"):
            read(tmp_path / "a.png")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(MediaError, match="do not say what is white"):
        read(tmp_path / "a.tiff")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "a.tiff")
    with pytest.raises(MediaError, match="more than 16 bits"):
        read(tmp_path / "a.tiff")


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    """A small file that claims to be huge is an error before its pixels are made; what is merely
    large is read.
    """
    Image.new("L", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    read(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(MediaError, match="more than 8000 pixels; make it smaller"):
        read(tmp_path / "a.png")


def test_unknown_fit_is_refused(tmp_path):
    """With what there is to choose from."""
    with pytest.raises(MediaError, match=r"fit='zoom' must be one of crop \(.*stretch \(.*pad \("):
        read(tmp_path / "a.png", fit="zoom")


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
(started) = showpage
%%EOF
"""


def test_an_eps_starts_no_ghostscript(tmp_path, monkeypatch):
    """Not even one that is called a PNG."""
    interpreter = tmp_path / "gs"
    interpreter.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for name in ("a.eps", "a.png"):
        (tmp_path / name).write_bytes(EPS)
        with pytest.raises(MediaError, match="in a format that is not read; save it as PNG"):
            read(tmp_path / name)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("suffix", ["ppm", "tga", "ico", "pcx", "sgi", "dds", "jp2", "pdf"])
def test_other_formats_of_pillow_are_not_opened(tmp_path, suffix):
    Image.fromarray(PICTURE).save(tmp_path / f"a.{suffix}")
    with pytest.raises(MediaError, match="in a format that is not read") as error:
        read(tmp_path / f"a.{suffix}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif", "a.gif", "a.bmp", "a.tiff"])
def test_every_format_that_is_named_is_read(tmp_path, name):
    Image.fromarray(PICTURE).save(tmp_path / name)
    assert read(tmp_path / name).shape == PICTURE.shape


@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "/dev/null"])
def test_a_pipe_is_not_waited_for(tmp_path, place):
    """One without a writer would be, for ever."""
    if place == "pipe":
        os.mkfifo(tmp_path / place)
    with pytest.raises(MediaError, match="is a pipe or a device"):
        read_image(tmp_path / place, 64, 64)
