"""Reports of models' results."""

import csv
import dataclasses
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image

from helios_jax.evaluation.bench import charts
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.files import SCORE_KEYS, MetricResults, write_json, write_results
from helios_jax.evaluation.bench.free import measure_free
from helios_jax.evaluation.bench.prompts import BenchPrompt, write_prompts
from helios_jax.evaluation.bench.report import html_report, write_report
from helios_jax.evaluation.bench.report_text import csv_report, lead, markdown_report
from helios_jax.evaluation.bench.score import FREE_FILE, Entry, Ledger
from helios_jax.evaluation.bench.strips import StripMaker, save_strip
from helios_jax.evaluation.bench.summary import average, common, estimate, read_model

MEANS = {
    "aesthetic": 0.6564263701438904,
    "motion_amplitude": 0.12899818271398544,
    "motion_smoothness": 0.9922347277689807,
    "semantic": 0.2817579507827759,
    "naturalness": 0.5,
    "drifting_aesthetic": 0.027865678071975708,
    "drifting_motion_smoothness": 0.0009624073235373065,
    "drifting_semantic": 0.006637156009674072,
    "drifting_naturalness": 0.0,
}
"""The means that the benchmark's authors published for their two sample videos: total 8.247."""


def model(folder, without=(), free=False, scale=1.0):
    """A folder of results, each metric with two videos beside its mean."""
    for name, mean in MEANS.items():
        if name not in without:
            key = SCORE_KEYS[name]
            rows = [{"id": i, "video_name": f"{i}.mp4", key: scale * mean} for i in (1, 2)]
            write_results(folder, MetricResults(name, tuple(rows)))
    write_prompts(folder / "prompts.csv", [BenchPrompt(i, f"a <dog> {i}", 70) for i in (1, 2)])
    if free:
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 255, (70, 24, 32, 3), np.uint8)
        rows = [{"id": i, **measure_free([frames]).row()} for i in (1, 2)]
        write_json(folder / FREE_FILE, {"metric": "free", "per_video_results": rows})
        maker = StripMaker()
        maker.add(frames)
        save_strip(folder / "strips" / "1.webp", maker)
    return read_model(folder)


@pytest.fixture
def models(tmp_path):
    judge = ("naturalness", "drifting_naturalness")
    return [model(tmp_path / "one", free=True), model(tmp_path / "two", without=judge, scale=0.9)]


class Parts(html.parser.HTMLParser):
    """The tags of a page, and everything that they refer to."""

    def __init__(self, page):
        super().__init__()
        self.open, self.sources = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_published_means_give_the_published_total(models):
    assert models[0].total.rating == 8.247
    assert models[1].total.missing == ("naturalness", "drifting_naturalness")


def test_a_reader_is_told_that_motion_was_looked_for_in_enlarged_pictures(models):
    told = "Videos of 32x24 pixels were enlarged to 640 columns"
    assert told in html_report(models)
    assert told in " ".join(markdown_report(models, "Two").split())
    assert told not in html_report(models[1:])


def test_the_page_is_whole_and_needs_nothing_from_outside(models):
    page = html_report(models)
    parts = Parts(page)
    assert not parts.open
    assert parts.sources
    assert all(source.startswith("data:image/webp;base64,") for source in parts.sources)
    assert "@import" not in page
    assert "url(" not in page


def test_prompts_are_words_and_no_markup(models):
    page = html_report(models)
    assert "a &lt;dog&gt; 1" in page
    assert "<dog>" not in page


def test_what_was_not_measured_is_a_dash_and_named(models):
    page = html_report(models)
    assert "Not measured for every model: drift: naturalness, naturalness." in page
    assert f">{charts.NONE}</span>" in page
    assert "64% of the weights" in page


def test_a_total_over_less_than_half_the_weights_is_not_given(tmp_path):
    few = model(tmp_path / "few", without=[name for name in MEANS if name != "motion_amplitude"])
    assert few.share == pytest.approx(0.03 / 0.996)
    assert 'class="total"' not in html_report([few])
    assert f"| few | {charts.NONE} | 3% |" in markdown_report([few])


def test_the_csv_has_every_mean_with_its_rating(models):
    rows = list(csv.DictReader(io.StringIO(csv_report(models))))
    found = {(row["model"], row["metric"]): row for row in rows}
    assert found["one", "aesthetic"]["rating"] == "9"
    assert float(found["one", "aesthetic"]["mean"]) == pytest.approx(MEANS["aesthetic"], rel=1e-5)
    assert ("one", "free.motion_length") in found
    assert ("two", "naturalness") not in found


def test_markdown_tables_have_as_many_cells_in_every_row(models):
    tables = markdown_report(models).split("\n\n")
    for table in tables:
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_three_files_are_written_and_no_others(models, tmp_path):
    out = tmp_path / "out"
    write_report(models, out / "report", "Two models")
    assert sorted(file.name for file in out.iterdir()) == ["report.csv", "report.html", "report.md"]


def test_results_of_the_original_alone_make_a_report(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    rows = [{"id": 2, "video_name": "2_240_ori81.mp4", "aesthetic_score": 0.68}]
    content = {"metric": "aesthetic", "average_score": 0.68, "num_videos": 1}
    path = folder / "aesthetic_results.json"
    path.write_text(json.dumps({**content, "per_video_results": rows}))
    assert "not noted: the results come from another program" in html_report([read_model(folder)])


def test_honest_siblings_stand_beside_the_ratings(tmp_path):
    rows = [{"id": 1, "video_name": "1.mp4", "motion_fb": 0.1, "mean_flow_length": 1.25}]
    write_results(tmp_path / "one", MetricResults("motion_amplitude", tuple(rows)))
    one = read_model(tmp_path / "one")
    assert "<h2>Beside the ratings</h2>" in html_report([one])
    assert "mean flow length" in markdown_report([one])
    assert "motion_amplitude.mean_flow_length,1.25" in csv_report([one])


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(BenchError, match=r"has no \*_results"):
        read_model(tmp_path)
    with pytest.raises(BenchError, match="no such folder"):
        read_model(tmp_path / "none")


def test_failed_videos_are_counted_in_the_conditions(tmp_path):
    def fail():
        raise BenchError("damaged")

    model(tmp_path / "one")
    ledger = Ledger(tmp_path / "one", "aesthetic", None, {}, {})
    ledger.take(Entry(1, tmp_path / "1.mp4"), "0", lambda: {"aesthetic_score": 0.5})
    ledger.take(Entry(2, tmp_path / "2.mp4"), "0", fail)
    assert "failed: 1 of aesthetic" in markdown_report([read_model(tmp_path / "one")])


def test_a_short_video_does_not_make_the_curve_jump():
    curve = average([[1.0, 1.1, 1.2], [3.0]])
    assert curve.mean == pytest.approx([2.0, 2.1, 2.2])
    assert curve.frames == [16.5, 49.5, 82.5]


def test_models_with_different_prompts_are_compared_over_those_they_share(models):
    one, two = models
    rows = tuple(one.results["aesthetic"].videos)
    more = ({**rows[0], "id": 7, "aesthetic_score": 0.0}, *rows)
    results = {"aesthetic": MetricResults("aesthetic", more)}
    other = dataclasses.replace(two, results=results)
    assert "different prompts" in lead([one, other])
    shared = common([one, other])
    assert "different prompts" not in lead(shared)
    assert shared[1].estimates()["aesthetic"].mean == pytest.approx(MEANS["aesthetic"])
    with pytest.raises(BenchError, match="no prompt in common"):
        common([one.restricted([1]), two.restricted([2])])


def test_an_interval_holds_the_mean_and_shrinks_with_videos():
    values = np.random.default_rng(0).normal(size=400).tolist()
    few, many = estimate(values[:20]), estimate(values)
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert estimate([2.0]).low is None


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0, 1, ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        (-0.004, 0.003, ["−0.004", "−0.002", "0.000", "0.002"]),  # noqa: RUF001
        (1, 1450, ["500", "1,000"]),
    ],
)
def test_ticks_are_round_and_have_the_decimals_they_need(low, high, texts):
    assert charts.labels(charts.ticks(low, high, 4)) == texts


def test_a_strip_has_the_first_and_the_last_frame():
    frames = np.zeros((200, 30, 40, 3), np.uint8)
    frames[:] = np.arange(200, dtype=np.uint8)[:, None, None, None]
    maker = StripMaker(frames=4)
    for piece in np.split(frames, 8):
        maker.add(piece)
    pixels = np.asarray(maker.strip())[15, 20::41, 0].astype(int)
    assert (pixels[0], pixels[-1]) == (0, 199)
    np.testing.assert_allclose(pixels, [0, 66, 133, 199], atol=8)
    assert isinstance(maker.strip(), Image.Image)
