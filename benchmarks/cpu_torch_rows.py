"""The rows of cpu_vs_diffusers.py as diffusers runs them."""

import functools
import os
from pathlib import Path
from typing import Any

import cpu_case as case
import diffusers
import numpy as np
import safetensors.torch
import torch
from cpu_case import Row, nothing


def rows(folder: Path, variant: str) -> dict[str, Row]:
    """The rows of a variant by name."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    system = Diffusers(folder, variant)
    found = {"request": Row(system.request)}
    if variant == "distilled":
        found["chunk"] = Row(system.chunk, nothing)
        for stage in range(3):
            found[f"forward, stage {stage}"] = Row(functools.partial(system.stage_call, stage))
        found["forward, alone"] = found["forward, stage 2"]
        found["text"] = Row(system.text)
        found["vae decode"] = Row(system.vae_decode)
    square = torch.ones(2048, 2048)
    return found | {"matmul": Row(lambda: (square @ square).numpy())}


class Diffusers:
    """A pipeline whose noise is injected and whose calls are kept.

    Attributes:
      calls: arguments of each call of the transformer in the last request.
      decoded: latents of each call of the VAE in the last request.
    """

    def __init__(self, folder: Path, variant: str):
        self.folder = folder
        self.variant = variant
        self.pipeline = load_pipeline(folder)
        self.forward = self.pipeline.transformer.forward
        self.decode = self.pipeline.vae.decode
        self.calls: list[dict[str, Any]] = []
        self.decoded: list[torch.Tensor] = []
        self.initial_noise = []
        self.block_noise = []
        for initial, *blocks in case.read_noise(folder, variant):
            self.initial_noise.append(channels_first(initial))
            self.block_noise += map(channels_first, blocks)

    def request(self) -> np.ndarray:
        """Frames of a whole request."""
        self.calls.clear()
        self.decoded.clear()
        initial = iter(self.initial_noise)
        blocks = iter(self.block_noise)
        pipeline = self.pipeline
        pipeline.prepare_latents = lambda *args, **kwargs: next(initial).clone()
        pipeline.sample_block_noise = lambda *args, **kwargs: next(blocks)
        pipeline.transformer.forward = self._velocity
        pipeline.vae.decode = self._decode
        frames = pipeline(
            prompt=case.PROMPT,
            negative_prompt=case.NEGATIVE,
            height=case.HEIGHT,
            width=case.WIDTH,
            num_frames=33 * case.CHUNKS[self.variant],
            guidance_scale=case.GUIDANCE[self.variant],
            output_type="np",
            **self._steps(),
        ).frames
        pipeline.transformer.forward = self.forward
        pipeline.vae.decode = self.decode
        return frames

    def chunk(self) -> None:
        """All transformer calls of the last chunk."""
        for call in self._last_chunk():
            self.forward(**call)

    def stage_call(self, stage: int) -> np.ndarray:
        """The last call at a stage; its arguments are left for the other system to read."""
        call = self._last_chunk()[2 * stage + 1]
        history = {
            name: channels_last(call[name]) for name in call if name.startswith("latents_history")
        }
        np.savez(
            self.folder / f"stage{stage}.npz",
            latents=channels_last(call["hidden_states"]),
            timestep=call["timestep"].numpy(),
            **history,
        )
        return channels_last(self.forward(**call)[0])

    def text(self) -> np.ndarray:
        """Features of the prompt."""
        features, _ = self.pipeline.encode_prompt(
            case.PROMPT, do_classifier_free_guidance=False, max_sequence_length=512
        )
        return features.numpy()

    def vae_decode(self) -> np.ndarray:
        """Frames of the last chunk; its latents are left for the other system to read."""
        latents = self.decoded[-1]
        np.save(self.folder / "decoded.npy", channels_last(latents))
        return channels_last(self.decode(latents, return_dict=False)[0])

    def _steps(self) -> dict[str, Any]:
        steps = case.STEPS[self.variant]
        if self.variant == "base":
            return {"num_inference_steps": steps[0]}
        options: dict[str, Any] = {"pyramid_num_inference_steps_list": list(steps)}
        if self.variant == "distilled":
            options["is_amplify_first_chunk"] = True
        return options

    def _last_chunk(self) -> list[dict[str, Any]]:
        return self.calls[-sum(case.STEPS[self.variant]) :]

    def _velocity(self, *args, **kwargs):
        self.calls.append(kwargs)
        return tuple(out.contiguous() for out in self.forward(*args, **kwargs))

    def _decode(self, latents, **kwargs):
        self.decoded.append(latents)
        return self.decode(latents, **kwargs)


def load_pipeline(folder: Path) -> diffusers.DiffusionPipeline:
    """The saved pipeline; its own loading of this transformer needs accelerate."""
    transformer = diffusers.HeliosTransformer3DModel(**case.TRANSFORMER).eval()
    weights = folder / "torch/transformer/diffusion_pytorch_model.safetensors"
    transformer.load_state_dict(safetensors.torch.load_file(weights))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        folder / "torch", transformer=transformer
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    return np.moveaxis(tensor.numpy(), 1, -1)
