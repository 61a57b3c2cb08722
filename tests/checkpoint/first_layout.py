"""Writing checkpoints of format version 1, which the library only reads: zarr arrays in chunks of
one tensor each, and symbolic links to what another checkpoint has.
"""

import json
from pathlib import Path

import numpy as np
import tensorstore as ts

from helios_jax.checkpoint.files import read_digests, write_digests
from helios_jax.checkpoint.layout import leaves
from helios_jax.checkpoint.names import component_slots
from helios_jax.config import HeliosConfig, to_dict


def save_first_layout(root: Path, config: HeliosConfig, components: dict, links: dict) -> None:
    """Write ``components``, flat dictionaries of arrays by path, and ``links`` by folder."""
    root.mkdir()
    content = {"format": "helios-jax", "version": 1} | to_dict(config)
    (root / "config.json").write_text(json.dumps(content))
    for component, flat in components.items():
        for path, slot in leaves(component_slots(config, component)).items():
            chunk = list(flat[path].shape)
            for axis, at in enumerate(slot.index):
                if isinstance(at, int):
                    chunk[axis] = 1
            write_array(root / component / path.replace("/", "."), flat[path], chunk)
        (root / component / "_METADATA").write_text("{}")
    for folder, target in links.items():
        (root / folder).symlink_to(target)
    elsewhere = {}
    for folder, target in links.items():
        there, _ = read_digests((root / target).parent)
        elsewhere |= {name: there[name] for name in there if name.startswith(f"{folder}/")}
    write_digests(root, elsewhere)


def write_array(folder: Path, values: np.ndarray, chunk: list[int]) -> None:
    """One zarr array."""
    dtype = values.dtype
    metadata = {
        "zarr_format": 2,
        "shape": values.shape,
        "chunks": chunk,
        "dtype": dtype.name if dtype.kind == "V" else dtype.str,
        "compressor": None,
        "fill_value": None,
        "order": "C",
        "dimension_separator": ".",
    }
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "metadata": metadata,
        "store_data_equal_to_fill_value": True,
    }
    ts.open(spec, create=True).result().write(values).result()
