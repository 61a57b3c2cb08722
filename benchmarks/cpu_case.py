"""What helios-jax and diffusers are compared on: sizes, the folder of weights and noise, rows."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

HEIGHT = 128
WIDTH = 192
PROMPT = (
    "A red ball rolls slowly over green grass while the camera follows it from the left; soft "
    "morning light, long shadows, a quiet garden."
)
NEGATIVE = "grey, blurred, overexposed, static, nothing moves"
TRANSFORMER = dict(
    num_attention_heads=4, attention_head_dim=128, num_layers=16, ffn_dim=1408, text_dim=512
)
VAE = dict(base_dim=32)
TEXT = dict(vocab_size=512, d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_heads=6)
STEPS = {"distilled": (2, 2, 2), "mid": (3, 3, 3), "base": (6,)}
CHUNKS = {"distilled": 3, "mid": 1, "base": 1}
GUIDANCE = {"distilled": 1.0, "mid": 5.0, "base": 5.0}
LATENTS = (9, HEIGHT // 8, WIDTH // 8, 16)


def make_folder(folder: Path, variant: str) -> None:
    """Save a random pipeline of diffusers, the checkpoint made of it, and every chunk's noise."""
    import diffusers
    import jax
    import torch
    import transformers

    from helios_jax.checkpoint.convert import from_torch
    from helios_jax.diffusion.noise import draw_chunk_noise
    from helios_jax.models.tokenizer import train_tokenizer

    def random(model: torch.nn.Module) -> torch.nn.Module:
        """Draw every parameter anew: none is zero or one, and activations keep their variance."""
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "gamma" in name:
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.1)
            else:
                torch.nn.init.normal_(
                    parameter,
                    std=1.0 if name.startswith("shared") else parameter[0].numel() ** -0.5,
                )
        return model.eval()

    torch.manual_seed(0)
    train_tokenizer([PROMPT, NEGATIVE] * 20, vocab_size=TEXT["vocab_size"]).save(
        folder / "tokenizer.json"
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    tables = dict(use_dynamic_shifting=True) | (
        dict(stages=1, stage_range=[0, 1]) if variant == "base" else {}
    )
    parts = dict(
        transformer=random(diffusers.HeliosTransformer3DModel(**TRANSFORMER)),
        vae=random(diffusers.AutoencoderKLWan(**VAE)),
        text_encoder=random(transformers.UMT5EncoderModel(transformers.UMT5Config(**TEXT))),
        tokenizer=tokenizer,
        scheduler=(
            diffusers.HeliosDMDScheduler if variant == "distilled" else diffusers.HeliosScheduler
        )(**tables),
    )
    if variant == "base":
        pipeline = diffusers.HeliosPipeline(**parts)
    else:
        pipeline = diffusers.HeliosPyramidPipeline(
            **parts, is_cfg_zero_star=variant == "mid", is_distilled=variant == "distilled"
        )
    pipeline.save_pretrained(folder / "torch")
    from_torch(folder / "torch", folder / "jax", progress=False)
    key = jax.random.key(0)[None]
    for chunk in range(CHUNKS[variant]):
        noise = draw_chunk_noise(key, chunk, LATENTS, len(STEPS[variant]), 1 / 3)
        np.savez(folder / f"noise{chunk}.npz", *map(np.asarray, (noise.latents, *noise.blocks)))


class Row(NamedTuple):
    """What is timed.

    Attributes:
      run: what is timed; its result is compared.
      compared: what is compared instead; :func:`nothing` compares nothing.
    """

    run: Callable[[], np.ndarray | None]
    compared: Callable[[], np.ndarray | None] | None = None


def nothing() -> None:
    """No output."""


def read_noise(folder: Path, variant: str) -> list[list[np.ndarray]]:
    """For each chunk, the initial noise and the block noise of each later stage, channels last."""
    return [
        list(np.load(folder / f"noise{chunk}.npz").values()) for chunk in range(CHUNKS[variant])
    ]
