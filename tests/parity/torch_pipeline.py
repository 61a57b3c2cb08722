"""Tiny random pipelines of Diffusers, run with given noise, and the same weights as one of ours."""

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
from helios_jax.config import HeliosConfig, SampleConfig, SchedulerConfig, TextEncoderConfig, VAEConfig
from helios_jax.diffusion.noise import ChunkNoise
from helios_jax.models.tokenizer import Tokenizer, train_tokenizer

from .compare import channels_first, channels_last
from .torch_transformer import TINY, config_from_torch, params_from_torch, random_transformer
from .torch_weights import vae_params_from_torch
from .torch_weights_umt5 import umt5_params_from_torch

PROMPTS = ["a red ball rolls over green grass", "two blue squares turn slowly, the camera moves left"]
NEGATIVE = "grey, blurred, nothing moves"
LENGTH = 64
"""Rows of the padded text; short, so that the toy models attend to words as well as to padding."""

TEXT = dict(vocab_size=120, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
VAE = dict(base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True])
STATISTICS = dict(latents_mean=[-0.3, 0.1, 0.4, 0.0], latents_std=[1.4, 0.8, 1.1, 2.0])

BASE = SchedulerConfig(stages=1, stage_range=(0.0, 1.0))
MID = SchedulerConfig()
DISTILLED = SchedulerConfig(solver="dmd", time_shift_type="linear")

VARIANTS = {
    "base": (BASE, SampleConfig(steps=(6,), guidance_scale=5.0)),
    "mid": (MID, SampleConfig(steps=(4, 4, 4), guidance_scale=5.0, cfg_zero_star=True, zero_init_steps=2)),
    "distilled": (DISTILLED, SampleConfig(steps=(2, 2, 2), guidance_scale=1.0, amplify_first_chunk=True)),
}


def make_pair(variant: str, folder, seed: int = 0, **transformer):
    """A Diffusers pipeline and ours with its weights."""
    scheduler, sample = VARIANTS[variant]
    model = random_transformer(seed, **TINY | dict(num_layers=2) | transformer)
    torch.manual_seed(seed)
    vae = randomised(AutoencoderKLWan(**VAE, **STATISTICS).eval())
    text_encoder = UMT5EncoderModel(UMT5Config(**TEXT, feed_forward_proj="gated-gelu", dropout_rate=0.0)).eval()
    text_encoder = randomised(text_encoder)
    train_tokenizer([*PROMPTS, NEGATIVE] * 20, vocab_size=100).save(folder / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    shared = dict(tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=model)
    tables = dict(
        stages=scheduler.stages, stage_range=list(scheduler.stage_range), use_dynamic_shifting=True, time_shift_type=scheduler.time_shift_type
    )
    if variant == "base":
        theirs = HeliosPipeline(**shared, scheduler=HeliosScheduler(**tables))
    elif variant == "mid":
        theirs = HeliosPyramidPipeline(**shared, scheduler=HeliosScheduler(**tables), is_cfg_zero_star=True)
    else:
        theirs = HeliosPyramidPipeline(**shared, scheduler=HeliosDMDScheduler(**tables), is_distilled=True)
    theirs.set_progress_bar_config(disable=True)

    config = HeliosConfig(
        transformer=config_from_torch(model),
        vae=VAEConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in (VAE | STATISTICS).items()}),
        text_encoder=TextEncoderConfig(**TEXT, max_sequence_length=LENGTH),
        scheduler=scheduler,
        sample=sample,
    )
    params = {
        "transformer": params_from_torch(model),
        "vae": vae_params_from_torch(vae.state_dict()),
        "text_encoder": umt5_params_from_torch(text_encoder.state_dict(), config.text_encoder),
    }
    return theirs, OurPipeline(config, params, Tokenizer.from_file(folder))


def randomised(module: torch.nn.Module):
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


def run_torch(pipeline, variant: str, prompts: list[str], noise: list[ChunkNoise], height: int, width: int):
    """Run a Diffusers pipeline on our noise: latents [B T H W C] in model space, and frames [B F Y X 3] in [0, 1]."""
    _, sample = VARIANTS[variant]
    unit = iter([channels_first(chunk.latents) for chunk in noise])
    blocks = iter([channels_first(block) for chunk in noise for block in chunk.blocks])
    pipeline.prepare_latents = lambda *args, **kwargs: next(unit).clone()
    # The float32 Cholesky factor of the singular covariance does not exist: the finished noise is injected instead.
    pipeline.sample_block_noise = lambda *args, **kwargs: next(blocks)
    # CFG-Zero* takes a view that needs contiguous velocities, which the transformer does not return.
    forward, decode, decoded = pipeline.transformer.forward, pipeline.vae.decode, []
    pipeline.transformer.forward = lambda *args, **kwargs: tuple(out.contiguous() for out in forward(*args, **kwargs))
    pipeline.vae.decode = lambda latents, **kwargs: decoded.append(latents) or decode(latents, **kwargs)
    pyramid = dict(pyramid_num_inference_steps_list=list(sample.steps), is_amplify_first_chunk=sample.amplify_first_chunk)
    frames = pipeline(
        prompt=prompts, negative_prompt=[NEGATIVE] * len(prompts), height=height, width=width, num_frames=33 * len(noise),
        guidance_scale=sample.guidance_scale, output_type="np", max_sequence_length=LENGTH,
        **(dict(num_inference_steps=sample.steps[0]) if variant == "base" else pyramid),
    ).frames  # fmt: skip
    mean, std = (np.asarray(STATISTICS[name], np.float32) for name in ("latents_mean", "latents_std"))
    return (channels_last(torch.cat(decoded, dim=2)) - mean) / std, frames


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Peak signal-to-noise ratio of frames in [0, 1], in dB."""
    return float(-10 * np.log10(np.mean((np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)) ** 2)))
