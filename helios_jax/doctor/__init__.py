"""What a machine has for helios-jax: versions and devices, kernels against their references, rates,
and what fits. ``helios-jax doctor`` prints it.
"""
