"""The GPUs that programs are compiled for and predicted on: what they are, and what rates are
assumed.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Rates(NamedTuple):
    """What a chip is assumed to reach.

    Attributes:
      matmul: operations a second of a bfloat16 matrix product that fills the chip.
      matmul_8bit: the same of float8 or int8 products.
      attention, attention_backward: operations a second of fused attention.
      convolution: operations a second of a bfloat16 convolution.
      copy: bytes a second, read and written, of a kernel that is bound by memory.
      host: bytes a second from the memory of the host.
      launch: seconds between one kernel and the next.
      source: where these come from.
    """

    matmul: float
    matmul_8bit: float
    attention: float
    attention_backward: float
    convolution: float
    copy: float
    host: float
    launch: float
    source: str


class Chip(NamedTuple):
    """A GPU.

    Attributes:
      name: as the driver tells it.
      capability: compute capability, major and minor.
      memory: of the device, bytes.
      bandwidth: of its memory, bytes a second, as the maker states it.
      l2_cache: bytes.
      cores: streaming multiprocessors.
      threads: that one of them holds.
      shared_memory: bytes of it that one of them has.
      clock: GHz.
      peak: operations a second of dense bfloat16 products with float32 sums, as the maker states.
      rates: what is assumed of it.
    """

    name: str
    capability: tuple[int, int]
    memory: int
    bandwidth: float
    l2_cache: int
    cores: int
    threads: int
    shared_memory: int
    clock: float
    peak: float
    rates: Rates


def _shares(peak: float, peak_8bit: float, bandwidth: float, host: float) -> Rates:
    """The rates of a chip on which nothing was measured: its peaks times what the H200 reaches, or
    is assumed to reach, of its own.
    """
    return Rates(
        matmul=0.80 * peak,
        matmul_8bit=0.71 * peak_8bit,
        attention=0.61 * peak,
        attention_backward=0.49 * peak,
        convolution=0.61 * peak,
        copy=0.90 * bandwidth,
        host=host,
        launch=1e-6,
        source="assumed: of the maker's peaks the shares that the H200 is taken to reach",
    )


_HOPPER = Rates(
    matmul=790e12,
    matmul_8bit=1400e12,
    attention=600e12,
    attention_backward=480e12,
    convolution=600e12,
    copy=4.3e12,
    host=50e9,
    launch=1e-6,
    source="matmul and copy measured on one H200 with cuBLAS; the others assumed",
)

CHIPS: Mapping[str, Chip] = {
    "h100": Chip(
        "NVIDIA H100 80GB HBM3",
        capability=(9, 0),
        memory=84_929_347_584,
        bandwidth=3.35232e12,
        l2_cache=50 << 20,
        cores=132,
        threads=2048,
        shared_memory=228 << 10,
        clock=1.98,
        peak=989e12,
        rates=_HOPPER._replace(
            matmul=760e12,
            copy=3.0e12,
            source="assumed: the H200's, with copy at 90 % of the H100's own bandwidth and matmul "
            "at 760",
        ),
    ),
    "h200": Chip(
        "NVIDIA H200",
        capability=(9, 0),
        memory=150_754_820_096,
        bandwidth=4.8e12,
        l2_cache=60 << 20,
        cores=132,
        threads=2048,
        shared_memory=228 << 10,
        clock=1.98,
        peak=989e12,
        rates=_HOPPER,
    ),
    "a100": Chip(
        "NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        memory=85_095_874_560,
        bandwidth=2.039e12,
        l2_cache=40 << 20,
        cores=108,
        threads=2048,
        shared_memory=164 << 10,
        clock=1.41,
        peak=312e12,
        rates=_shares(312e12, 624e12, 2.039e12, host=25e9),
    ),
    "l40s": Chip(
        "NVIDIA L40S",
        capability=(8, 9),
        memory=47_697_362_944,
        bandwidth=0.864e12,
        l2_cache=96 << 20,
        cores=142,
        threads=1536,
        shared_memory=100 << 10,
        clock=2.52,
        peak=362e12,
        rates=_shares(362e12, 733e12, 0.864e12, host=25e9),
    ),
    "b200": Chip(
        "NVIDIA B200",
        capability=(10, 0),
        memory=191_433_932_800,
        bandwidth=8.0e12,
        l2_cache=126 << 20,
        cores=148,
        threads=2048,
        shared_memory=228 << 10,
        clock=1.965,
        peak=2250e12,
        rates=_shares(2250e12, 4500e12, 8.0e12, host=50e9),
    ),
    "rtx5090": Chip(
        "NVIDIA GeForce RTX 5090",
        capability=(12, 0),
        memory=34_190_458_880,
        bandwidth=1.792e12,
        l2_cache=96 << 20,
        cores=170,
        threads=1536,
        shared_memory=100 << 10,
        clock=2.41,
        peak=209.5e12,
        rates=_shares(209.5e12, 419e12, 1.792e12, host=50e9),
    ),
}
"""By the name that ``--plan`` takes. Memory, bandwidth and peaks are the makers' (data sheets of
H100, H200, A100, L40S, DGX B200 and the RTX Blackwell architecture paper), dense, without sparsity.
"""
