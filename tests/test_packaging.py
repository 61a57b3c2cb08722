"""What a fresh clone promises."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_kernels_do_not_hide_hugging_faces(tmp_path):
    """In the repository's root, ``import kernels`` is Hugging Face's package if that is installed,
    and ours is helios_jax.kernels.
    """
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text("get_kernel = 'theirs'")
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r})\n"
        "import kernels, helios_jax.kernels.attention\n"
        "assert kernels.get_kernel == 'theirs'\n"
        "assert 'attention' in dir(helios_jax.kernels)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_diffusers_finds_no_kernels_package_in_ours():
    """With ours in sight and Hugging Face's not installed, diffusers knows that it has none, and
    its Helios imports.
    """
    code = (
        "from diffusers.utils import is_kernels_available\n"
        "from diffusers import HeliosTransformer3DModel, HeliosPyramidPipeline\n"
        "assert not is_kernels_available()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_runtime_imports_neither_torch_nor_transformers():
    """The library, with every module loaded, leaves PyTorch, Transformers, TensorFlow and hub
    clients alone.
    """
    code = (
        "import pkgutil, sys, helios_jax, importlib\n"
        "for module in pkgutil.walk_packages(helios_jax.__path__, 'helios_jax.'):\n"
        "    if module.name != 'helios_jax.__main__': importlib.import_module(module.name)\n"
        "unwanted = {'torch', 'transformers', 'tensorflow', 'diffusers', 'huggingface_hub'}\n"
        "heavy = unwanted & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ci_runs_the_test_command_that_contributors_are_told():
    """The command is the one that is run on every change."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    command = next(block.strip() for block in blocks if "pytest" in block)
    assert command in (ROOT / ".ci" / "run").read_text()


def test_every_preset_is_a_configuration():
    """The files of configs/ build, and are what the checkpoints of that name are."""
    import runpy

    from helios_jax.config import HeliosConfig, from_dict

    presets = {
        path.stem: from_dict(HeliosConfig, runpy.run_path(str(path))["get_config"]())
        for path in (ROOT / "configs").glob("*.py")
    }
    assert {
        name: (preset.scheduler.stages, preset.scheduler.solver) for name, preset in presets.items()
    } == {
        "helios_base": (1, "unipc"),
        "helios_mid": (3, "unipc"),
        "helios_distilled": (3, "dmd"),
        "tiny": (3, "dmd"),
    }
