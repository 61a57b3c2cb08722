"""The version of the package, where neither an installation nor JAX is needed to read it."""

VERSION = "0.1.0"
