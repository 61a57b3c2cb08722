"""The table of statistics and its curves."""

import xml.etree.ElementTree as ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from helios_jax.evaluation.bench.free import measure_free
from helios_jax.readers import ReadError
from helios_jax.sampling.curves import save_curves
from helios_jax.sampling.statistics import (
    chunk_rows,
    load_statistics,
    measure_latents,
    save_statistics,
)

RNG = np.random.default_rng(0)
LATENTS = jnp.asarray(2 * RNG.standard_normal((2, 9, 4, 4, 3)), jnp.float32)
FRAMES = RNG.integers(0, 256, (2, 33, 16, 24, 3), np.uint8)
ROWS = chunk_rows(1, LATENTS)


def test_statistics_of_latents():
    found = measure_latents(LATENTS)
    latents = np.asarray(LATENTS, np.float64)
    expected = {
        "latents_mean": latents.mean((1, 2, 3, 4)),
        "latents_std": latents.std((1, 2, 3, 4)),
        "latents_extreme": (np.abs(latents) > 3).mean((1, 2, 3, 4)),
    }
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_frames_are_measured_as_a_finished_video_is(kind):
    """Each figure of each chunk is the one that the curves of the benchmark have."""
    frames = FRAMES if kind == np.uint8 else FRAMES.astype(np.float32) / 255
    [[row], [later]] = [chunk_rows(chunk, LATENTS[:1], frames[chunk, None]) for chunk in range(2)]
    curves = measure_free(FRAMES).curves
    assert {*curves} == {*row} - {"chunk", "video", *measure_latents(LATENTS)}
    for name, curve in curves.items():
        assert [row[name], later[name]] == pytest.approx(curve, rel=1e-6), name


def test_rows_of_another_version_are_not_gone_on_with(tmp_path):
    path = tmp_path / "old.csv"
    with pytest.raises(ReadError, match="other columns"):
        save_statistics(path, [{"chunk": 0, "video": 0, "frames_mean": 0.5}, *ROWS])
    assert not path.exists()


def test_table_comes_back(tmp_path):
    """A row for each chunk and video; writing again replaces the table."""
    rows = []
    for chunk in range(3):
        rows += chunk_rows(chunk, LATENTS * (1 + chunk), jnp.asarray(FRAMES))
        save_statistics(tmp_path / "statistics.csv", rows)
    assert [(row["chunk"], row["video"]) for row in rows] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    assert load_statistics(tmp_path / "statistics.csv") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["statistics.csv"]


def test_curves_have_a_line_for_each_statistic_and_video(tmp_path):
    """Well-formed SVG, whose points lie in their frames; a statistic that never changes, or a
    single chunk, is no trouble.
    """
    for chunks in (2, 3):
        rows = [row for chunk in range(chunks) for row in chunk_rows(chunk, LATENTS * (1 + chunk))]
        save_curves(tmp_path / "curves.svg", [row | {"constant": 1.0} for row in rows])
        root = ElementTree.parse(tmp_path / "curves.svg").getroot()
        lines = [element for element in root if element.tag.endswith("polyline")]
        assert len(lines) == 4 * 2
        points = np.array(
            [[point.split(",") for point in line.get("points").split()] for line in lines], float
        )
        assert points.shape == (8, chunks, 2)
        assert points.min() >= 0
        assert points[..., 0].max() <= float(root.get("width"))
        assert points[..., 1].max() <= float(root.get("height"))


def test_curves_name_their_axes_and_videos_on_a_white_ground(tmp_path):
    """A single chunk is a dot for each video."""
    save_curves(tmp_path / "curves.svg", chunk_rows(0, LATENTS))
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert root[0].get("fill") == "white"
    texts = [element.text for element in root if element.tag.endswith("text")]
    assert {"chunk", "video 0", "video 1", "mean of the latents (0 over all videos)"} <= set(texts)
    assert sum(element.tag.endswith("circle") for element in root) == 3 * 2
