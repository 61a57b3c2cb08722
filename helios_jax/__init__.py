"""helios-jax: Helios, the autoregressive video diffusion model, in JAX.

``from helios_jax import HeliosPipeline`` is all that making a video needs. Beneath it are pure
functions: ``sampling.chunk.sample_chunk`` makes one chunk with
``models.transformer.HeliosTransformer``, ``models.vae.VAE`` and ``models.umt5.UMT5Encoder``; the
mathematics is in ``diffusion``.
"""

__version__ = "0.1.0"
__all__ = ["HeliosPipeline"]


def __getattr__(name: str):
    """Import the pipeline when it is asked for: the kernels and the configuration are of use
    without it.
    """
    if name == "HeliosPipeline":
        from helios_jax.sampling.pipeline import HeliosPipeline

        return HeliosPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
