"""The networks and the judge that metrics need, each read when it is first asked for."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path

from helios_jax.evaluation.bench.aesthetic import AestheticModel
from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.naturalness import Judge
from helios_jax.evaluation.bench.semantic import SemanticModel
from helios_jax.evaluation.bench.smoothness import SmoothnessModel

WEIGHTS: dict[str, str] = {
    "clip": "CLIP ViT-L/14 (MIT): the folder clip-vit-large-patch14, or ViT-L-14.pt",
    "aesthetic_head": "LAION's aesthetic head (MIT): sa_0_4_vit_l_14_linear.pth",
    "viclip": "ViCLIP-L/14 (MIT): ViClip-InternVid-10M-FLT.pth, or its safetensors file",
    "viclip_vocabulary": "CLIP's BPE merges (MIT): bpe_simple_vocab_16e6.txt.gz, or merges.txt",
    "amt": "AMT-S (CC BY-NC 4.0: not for commercial use): amt-s.pth",
}
"""What each file of weights is, with its licence."""

ORIGINAL_PLACES: dict[str, tuple[str, ...]] = {
    "clip": ("aesthetic_model/ViT-L-14.pt", "clip-vit-large-patch14"),
    "aesthetic_head": ("aesthetic_model/sa_0_4_vit_l_14_linear.pth",),
    "viclip": ("ViCLIP/ViClip-InternVid-10M-FLT.pth", "ViCLIP/model.safetensors"),
    "viclip_vocabulary": ("ViCLIP/bpe_simple_vocab_16e6.txt.gz",),
    "amt": ("amt_model/amt-s.pth",),
}
"""Where HeliosBench keeps each file below its folder ``checkpoints``."""


class Models:
    """Networks and judge.

    Args:
      weights: files by the names of :data:`WEIGHTS`; metrics without theirs are skipped.
      judge: answers questions about frames; None skips the metrics that need one.
      judge_name: of the model that answers, for the result files.
    """

    def __init__(
        self,
        weights: Mapping[str, str | os.PathLike] | None = None,
        judge: Judge | None = None,
        judge_name: str | None = None,
    ):
        self.weights = {name: Path(path) for name, path in (weights or {}).items()}
        self.judge_name = judge_name
        self._judge = judge
        if unknown := self.weights.keys() - WEIGHTS.keys():
            raise BenchError(f"unknown weights {sorted(unknown)}; known are {', '.join(WEIGHTS)}")

    def unread(self) -> "Models":
        """The same, with networks of its own, that it will read onto the default device."""
        return Models(self.weights, self._judge, self.judge_name)

    @property
    def judge(self) -> Judge:
        """The judge.

        Raises:
          BenchError: if there is none.
        """
        if self._judge is None:
            raise BenchError("no judge was named")
        return self._judge

    @functools.cached_property
    def aesthetic(self) -> AestheticModel:
        """CLIP and LAION's head.

        Raises:
          BenchError: if their weights were not given.
          CheckpointError: if the files are something else.
        """
        return AestheticModel.read(self._file("clip"), self._file("aesthetic_head"))

    @functools.cached_property
    def semantic(self) -> SemanticModel:
        """ViCLIP and its vocabulary. Raises as :attr:`aesthetic`."""
        return SemanticModel.read(self._file("viclip"), self._file("viclip_vocabulary"))

    @functools.cached_property
    def smoothness(self) -> SmoothnessModel:
        """AMT-S. Raises as :attr:`aesthetic`."""
        return SmoothnessModel.read(self._file("amt"))

    def _file(self, name: str) -> Path:
        if reason := self.reason_without(name):
            raise BenchError(reason)
        return self.weights[name]

    def reason_without(self, need: str) -> str | None:
        """Why metrics that need this cannot be measured; None if they can."""
        if need == "judge":
            return None if self._judge else "no judge was named"
        if need in self.weights:
            return None if self.weights[need].exists() else f"{self.weights[need]} does not exist"
        return f"no weights of {WEIGHTS[need]}"


def find_weights(folder: str | os.PathLike) -> dict[str, Path]:
    """The weights that lie in a folder, in the places where HeliosBench keeps them."""
    found = {}
    for name, places in ORIGINAL_PLACES.items():
        for place in places:
            if name not in found and (Path(folder) / place).exists():
                found[name] = Path(folder) / place
    return found
