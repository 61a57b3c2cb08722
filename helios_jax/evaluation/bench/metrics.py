"""The table of metrics: what each one measures, what it needs, and the function that measures it.

::

    models = Models({"clip": "clip-vit-large-patch14", ...})
    video = Video("2_240_ori81.mp4", prompt="A stunning ...")
    for name, metric in METRICS.items():
        if reason := metric.reason_to_skip(models, video.prompt):
            print(name, "skipped:", reason)
        else:
            print(name, metric.score(video, models))

A metric's figures go as they are into a row of its result file (:mod:`~.files`): the figure that
HeliosBench averages has the name ``metric.key``; the others (:attr:`Metric.siblings`) are ours,
for where the benchmark's own figure says less than its name.
"""

import dataclasses
from collections.abc import Callable, Mapping

from helios_jax.evaluation.bench import aesthetic, amplitude, naturalness, semantic, smoothness
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.files import SCORE_KEYS
from helios_jax.evaluation.bench.models import Models
from helios_jax.evaluation.bench.opencv import has_opencv
from helios_jax.evaluation.bench.ratings import is_drift
from helios_jax.evaluation.bench.video import Figures, Video


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of HeliosBench, or one of ours.

    Attributes:
      name: of the result file, ``<name>_results.json``.
      description: one line for reports.
      unit: of the figure ``key``.
      needs: of ``"opencv"``, ``"prompt"``, ``"judge"`` and the weights that
        :class:`~.models.Models` is given: ``"clip"``, ``"aesthetic_head"``, ``"viclip"``,
        ``"amt"``.
      score: measures a video. Raises :class:`~.errors.BenchError` where it cannot.
      siblings: what the other figures are, by name.
    """

    name: str
    description: str
    unit: str
    needs: tuple[str, ...]
    score: Callable[[Video, Models], Figures]
    siblings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """The figure that is averaged over videos and rated."""
        return SCORE_KEYS[self.name]

    @property
    def higher_is_better(self) -> bool:
        """False of drifts."""
        return not is_drift(self.name)

    def reason_to_skip(self, models: Models, prompt: str | None) -> str | None:
        """What is missing that the metric needs, in words that say what to do; None if nothing."""
        for need in self.needs:
            if need == "opencv":
                reason = None if has_opencv() else "needs OpenCV: pip install 'helios-jax[bench]'"
            elif need == "prompt":
                reason = None if prompt else "needs the prompt of the video: name --prompts"
            else:
                reason = models.reason_without(need)
            if reason:
                return reason
        return None


def _aesthetic(video: Video, models: Models) -> Figures:
    return aesthetic.aesthetic(video, models.aesthetic)


def _aesthetic_drift(video: Video, models: Models) -> Figures:
    return aesthetic.aesthetic_drift(video, models.aesthetic)


def _amplitude(video: Video, models: Models) -> Figures:
    flows = amplitude.flows(video.frames)
    return {
        "motion_fb": amplitude.amplitude(flows),
        "mean_flow_length": amplitude.mean_length(flows),
    }


def _smoothness(video: Video, models: Models) -> Figures:
    return smoothness.smoothness(video, models.smoothness)


def _smoothness_drift(video: Video, models: Models) -> Figures:
    return smoothness.smoothness_drift(video, models.smoothness)


def _semantic(video: Video, models: Models) -> Figures:
    return semantic.semantic(video, models.semantic)


def _semantic_drift(video: Video, models: Models) -> Figures:
    return semantic.semantic_drift(video, models.semantic)


def _naturalness(video: Video, models: Models) -> Figures:
    return naturalness.judged(video, models.judge)


def _naturalness_drift(video: Video, models: Models) -> Figures:
    return naturalness.judged_drift(video, models.judge)


SIGNED_DRIFT = {"signed_drift": "the last 15 % minus the first; below 0 the video gets worse"}

CLIP = ("clip", "aesthetic_head")
VICLIP = ("viclip", "viclip_vocabulary", "prompt")
AMT = ("opencv", "amt")
JUDGE = ("opencv", "judge")

_TABLE = [
    Metric(
        name="aesthetic",
        description="mean of LAION's aesthetic rating of every frame, by CLIP ViT-L/14",
        unit="tenths of a rating of 1 to 10",
        needs=CLIP,
        score=_aesthetic,
    ),
    Metric(
        name="motion_amplitude",
        description="absolute mean of the signed components of Farnebäck's optical flow",
        unit="pixels a frame at 640 columns",
        needs=("opencv",),
        score=_amplitude,
        siblings={"mean_flow_length": "mean length of flow: motions in all directions add up"},
    ),
    Metric(
        name="motion_smoothness",
        description="how near AMT-S comes to every other frame from its neighbours",
        unit="1 minus the mean difference",
        needs=AMT,
        score=_smoothness,
        siblings={"temporal_flicker": "mean difference of consecutive frames; 0 is a still video"},
    ),
    Metric(
        name="semantic",
        description="cosine of ViCLIP's features of 8 frames and of the prompt's first 30 tokens",
        unit="cosine",
        needs=VICLIP,
        score=_semantic,
        siblings={"whole_prompt_score": "mean cosine with all of the prompt, 30 tokens at a time"},
    ),
    Metric(
        name="naturalness",
        description="a judge's answer to how real 16 frames look",
        unit="0 to 1",
        needs=JUDGE,
        score=_naturalness,
    ),
    Metric(
        name="drifting_aesthetic",
        description="aesthetic: difference between the first and the last 15 % of frames",
        unit="tenths of a rating of 1 to 10",
        needs=CLIP,
        score=_aesthetic_drift,
        siblings=SIGNED_DRIFT,
    ),
    Metric(
        name="drifting_motion_smoothness",
        description="motion smoothness: difference between the first and the last 15 % of frames",
        unit="1 minus the mean difference",
        needs=AMT,
        score=_smoothness_drift,
        siblings=SIGNED_DRIFT,
    ),
    Metric(
        name="drifting_semantic",
        description="semantic: difference between the first and the last 15 % of frames",
        unit="cosine",
        needs=VICLIP,
        score=_semantic_drift,
        siblings=SIGNED_DRIFT,
    ),
    Metric(
        name="drifting_naturalness",
        description="naturalness: difference between the first and the last 15 % of frames",
        unit="0 to 1",
        needs=JUDGE,
        score=_naturalness_drift,
        siblings=SIGNED_DRIFT,
    ),
]

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""All metrics by name, in the order of the benchmark's tables."""


def find_metrics(names: list[str]) -> list[Metric]:
    """Metrics by name.

    Raises:
      BenchError: naming those that do not exist, and all that do.
    """
    if unknown := [name for name in names if name not in METRICS]:
        raise BenchError(f"there is no metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
    return [METRICS[name] for name in names]
