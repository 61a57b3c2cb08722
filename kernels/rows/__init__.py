"""One kernel for what is done to tokens row by row: adding to them, norming them, or both in one
go.

    added  = x + gate · y
    normed = (added - mean) / √(variance + eps) · scale + shift      (layer norm)
           = added / √(mean square + eps) · scale + shift            (RMS norm)

Norms and residual additions are as fast as memory is; what saves time is to touch each row once.
Every operation that is a case of this gets its implementations from :func:`implementations`.
"""

from .api import implementations

__all__ = ["implementations"]
