"""Tiny random pipelines of Diffusers, run with given noise, and ours, converted from them."""

import contextlib
from unittest import mock

import numpy as np
import torch
from diffusers import (
    AutoencoderKLWan,
    HeliosDMDScheduler,
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
)
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from helios_jax import HeliosPipeline as OurPipeline
from helios_jax.checkpoint.convert import from_torch
from helios_jax.diffusion.noise import ChunkNoise
from helios_jax.models.tokenizer import train_tokenizer

from .compare import channels_first, channels_last
from .torch_transformer import TINY, random_transformer

PROMPTS = [
    "a red ball rolls over green grass",
    "two blue squares turn slowly, the camera moves left",
]
NEGATIVE = "grey, blurred, nothing moves"

TEXT = dict(vocab_size=120, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
VAE = dict(
    base_dim=8,
    z_dim=4,
    dim_mult=[1, 1, 1, 1],
    num_res_blocks=1,
    temperal_downsample=[False, True, True],
)
STATISTICS = dict(latents_mean=[-0.3, 0.1, 0.4, 0.0], latents_std=[1.4, 0.8, 1.1, 2.0])

OPTIONS = {
    "base": dict(steps=(6,), guidance_scale=5.0),
    "mid": dict(steps=(4, 4, 4), guidance_scale=5.0),
    "distilled": dict(steps=(2, 2, 2), guidance_scale=1.0),
}


def make_pair(variant: str, folder, seed: int = 0):
    """A Diffusers pipeline, and ours from the folder it saves."""
    model = random_transformer(seed, **TINY | dict(num_layers=2))
    torch.manual_seed(seed)
    train_tokenizer([*PROMPTS, NEGATIVE] * 20, vocab_size=100).save(folder / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    text_config = UMT5Config(**TEXT, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    parts = dict(
        tokenizer=tokenizer,
        vae=randomized(AutoencoderKLWan(**VAE, **STATISTICS).eval()),
        text_encoder=randomized(UMT5EncoderModel(text_config).eval()),
        transformer=model,
    )
    shift = dict(
        use_dynamic_shifting=True,
        time_shift_type="linear" if variant == "distilled" else "exponential",
    )
    if variant == "base":
        scheduler = HeliosScheduler(stages=1, stage_range=[0, 1], **shift)
        theirs = HeliosPipeline(**parts, scheduler=scheduler)
    elif variant == "mid":
        scheduler = HeliosScheduler(**shift)
        theirs = HeliosPyramidPipeline(**parts, scheduler=scheduler, is_cfg_zero_star=True)
    else:
        scheduler = HeliosDMDScheduler(**shift)
        theirs = HeliosPyramidPipeline(**parts, scheduler=scheduler, is_distilled=True)
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder / "diffusers")
    from_torch(folder / "diffusers", folder / "ours", progress=False)
    return theirs, OurPipeline.from_checkpoint(folder / "ours")


def randomized(module: torch.nn.Module):
    """Every parameter random, with variance kept from layer to layer."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "gamma" in name or "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * torch.randn_like(parameter))
            elif "shared" in name or "embed" in name or "relative" in name:
                parameter.copy_(torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5)
    return module.requires_grad_(False)


def run_torch(
    pipeline,
    variant: str,
    prompts: list[str],
    noise: list[ChunkNoise],
    height: int,
    width: int,
    draws=(),
    **conditioning,
):
    """Run a Diffusers pipeline on our noise.

    Args:
      draws: tensors to use where the pipeline draws noise for its conditioning.
      **conditioning: further arguments of the pipeline.

    Returns:
      Latents [B T H W C] in model space, and frames [B F Y X 3] in [0, 1].
    """
    options = OPTIONS[variant]
    unit = iter([channels_first(chunk.latents) for chunk in noise])
    blocks = iter([channels_first(block) for chunk in noise for block in chunk.blocks])
    pipeline.prepare_latents = lambda *args, **kwargs: next(unit).clone()
    # The float32 Cholesky factor of the singular covariance does not exist: the finished noise is
    # injected instead.
    pipeline.sample_block_noise = lambda *args, **kwargs: next(blocks)
    forward = pipeline.transformer.forward
    decode = pipeline.vae.decode
    decoded = []

    def contiguous(*args, **kwargs):
        # CFG-Zero* takes a view that needs contiguous velocities, which the transformer does not
        # return.
        return tuple(out.contiguous() for out in forward(*args, **kwargs))

    def record(latents, **kwargs):
        decoded.append(latents)
        return decode(latents, **kwargs)

    if variant == "base":
        steps = dict(num_inference_steps=options["steps"][0])
    else:
        steps = dict(
            pyramid_num_inference_steps_list=list(options["steps"]),
            is_amplify_first_chunk=variant == "distilled",
        )
    with (
        injected(draws),
        mock.patch.object(pipeline.transformer, "forward", contiguous),
        mock.patch.object(pipeline.vae, "decode", record),
    ):
        output = pipeline(
            prompt=prompts,
            negative_prompt=[NEGATIVE] * len(prompts),
            height=height,
            width=width,
            num_frames=33 * len(noise),
            guidance_scale=options["guidance_scale"],
            output_type="np",
            **steps,
            **conditioning,
        )
    mean = np.asarray(pipeline.vae.config.latents_mean, np.float32)
    std = np.asarray(pipeline.vae.config.latents_std, np.float32)
    return (channels_last(torch.cat(decoded, dim=2)) - mean) / std, output.frames


@contextlib.contextmanager
def injected(draws):
    """Where Diffusers would draw noise, normal or uniform, it takes these tensors, in this order;
    another number or shape is an error.
    """
    left = iter(draws)

    def draw(shape, **_):
        tensor = next(left)
        assert tensor.shape == tuple(shape), (
            f"{tuple(tensor.shape)} is given where {tuple(shape)} is drawn"
        )
        return tensor

    with contextlib.ExitStack() as patches:
        for module in (
            "models.autoencoders.vae",
            "pipelines.helios.pipeline_helios",
            "pipelines.helios.pipeline_helios_pyramid",
        ):
            patches.enter_context(mock.patch(f"diffusers.{module}.randn_tensor", draw))
        patches.enter_context(mock.patch("torch.rand", lambda *shape, **_: draw(shape)))
        yield
    assert next(left, None) is None, "fewer draws than were given"


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Peak signal-to-noise ratio of frames in [0, 1], in dB."""
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    return float(-10 * np.log10(np.mean(difference**2)))
