"""How a folder or a file of weights is laid out, told from the names of what it holds."""

from pathlib import Path

from helios_jax.checkpoint import kinds
from helios_jax.checkpoint.adapter_files import KNOWN_FILES, PEFT_CONFIG
from helios_jax.checkpoint.files import DIGESTS
from helios_jax.checkpoint.original import WAN_FILES, is_original
from helios_jax.checkpoint.pipeline_index import PIPELINE


def layout_of(path: Path) -> str:
    """How a path is laid out: ``"file"``, ``"pipeline"`` (Diffusers), ``"original"`` (Wan),
    ``"checkpoint"`` (ours), ``"component"`` (a folder of one model), ``"adapter"`` or ``"other"``.
    """
    if path.is_file():
        return "file"
    if (path / DIGESTS).exists():
        return "checkpoint"
    if (path / PIPELINE).exists():
        return "pipeline"
    if is_original(path):
        return "original"
    if (path / PEFT_CONFIG).exists() or any((path / name).exists() for name in KNOWN_FILES):
        return "adapter"
    return "component" if (path / "config.json").exists() else "other"


def describe_other(path: Path, layout: str) -> str:
    """What a place is whose transformer cannot be read."""
    if layout == "checkpoint":
        return (
            "is a helios-jax checkpoint already: pass --to_diffusers to turn it into a Diffusers "
            "folder"
        )
    if layout == "adapter":
        return f"is the folder of an adapter. {kinds.ADAPTER_ADVICE}"
    held = sorted(
        file.name for file in path.iterdir() if file.suffix in (".safetensors", ".gguf", ".pth")
    )
    if held and all(name.endswith(".gguf") for name in held):
        return f"holds GGUF files ({', '.join(held[:3])}), {kinds.GGUF_ADVICE}"
    advice = f"; it holds {', '.join(held[:3])}: give the file itself as --source" if held else ""
    return (
        f"is neither a Diffusers folder (no {PIPELINE}) nor an original Wan 2.1 folder (no "
        f"{WAN_FILES['vae']}){advice}"
    )
