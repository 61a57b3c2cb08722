"""Where compiled programs are kept."""

import shutil

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from helios_jax.compile_cache import count_programs, use_compile_cache, without_compile_cache


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """Every test begins without a cache, with a home of its own."""
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation_cache.reset_cache()


def compile_again(number):
    """Compile a program as a new process would, that is, with nothing in memory."""
    jax.clear_caches()
    with count_programs() as programs:
        assert jax.jit(lambda x: x * number)(jnp.ones(3))[0] == number
    return programs


def test_a_program_is_compiled_once(tmp_path):
    """Programs are kept in the user's cache folder by default, however quick to compile."""
    use_compile_cache()
    first, second = compile_again(7), compile_again(7)
    assert first["needed"] > first["cached"]
    assert second["needed"] == second["cached"] > 0
    assert any((tmp_path / "helios-jax" / "programs").iterdir())


def test_a_named_folder_is_used(tmp_path):
    use_compile_cache(str(tmp_path / "here"))
    compile_again(8)
    assert any((tmp_path / "here").iterdir())
    assert not (tmp_path / "helios-jax").exists()


def test_a_folder_may_be_copied(tmp_path):
    """Its programs are found wherever it lies, as on another machine of the same kind."""
    use_compile_cache(str(tmp_path / "here"))
    compile_again(12)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    compilation_cache.reset_cache()
    use_compile_cache(str(tmp_path / "there"))
    programs = compile_again(12)
    assert programs["needed"] == programs["cached"] > 0


def test_the_environment_has_a_say(tmp_path):
    """A folder that JAX already has, as from JAX_COMPILATION_CACHE_DIR, stays."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "users"))
    use_compile_cache()
    compile_again(9)
    assert any((tmp_path / "users").iterdir())


def test_an_empty_name_is_no_cache(tmp_path):
    use_compile_cache("")
    assert compile_again(10)["cached"] == compile_again(10)["cached"] == 0
    assert not any(tmp_path.iterdir())


def test_a_home_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    use_compile_cache()
    assert compile_again(11)["cached"] == 0


def test_a_relative_cache_folder_is_passed_over(monkeypatch, tmp_path):
    """As the XDG specification has it: each working folder would get a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    use_compile_cache()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_without_the_cache_nothing_is_kept_or_found(tmp_path):
    """Programs for a device that is not there; the cache is used again afterwards."""
    use_compile_cache(str(tmp_path / "here"))
    with without_compile_cache():
        assert compile_again(13)["cached"] == 0
        assert not any((tmp_path / "here").iterdir())
    compile_again(13)
    assert any((tmp_path / "here").iterdir())
