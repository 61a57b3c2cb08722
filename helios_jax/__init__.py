"""helios-jax: Helios, the autoregressive video diffusion model, in JAX."""

__version__ = "0.1.0"
