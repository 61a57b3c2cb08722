"""The doctor's lines, on this machine and on files that say what another would."""

import json
import time

import jax
import jax.numpy as jnp
import pytest

from helios_jax.commands import doctor as command
from helios_jax.doctor import machine
from helios_jax.doctor.fits import check_fits
from helios_jax.doctor.kernels import Case, cases, check_case, check_kernels, deviation
from helios_jax.kernels import verdicts
from helios_jax.kernels.dispatch import Implementation, dispatch
from helios_jax.memory.report import GIB


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    verdicts._read.cache_clear()
    yield tmp_path / "cache"
    verdicts._read.cache_clear()


@pytest.fixture
def root(tmp_path):
    """A file system with one GPU and its driver."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    return tmp_path


def say_driver(root, release):
    text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {release}  Wed Jul 16 2025\n"
    (root / "proc/driver/nvidia/version").write_text(text)


def test_the_command_looks_at_everything_and_exits_0_here(capsys):
    """On a machine without a GPU: nothing is wrong, and what needs one is said to be not run."""
    assert command.main(["doctor", "--json", "--tokens=16"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {line["check"]: line for line in lines}
    assert found["device"]["status"] == "ok"
    assert found["attention, by_head"]["status"] == "ok"
    assert found["attention, cudnn"]["status"] == "not run"
    assert "needs an NVIDIA GPU" in found["gated_residual_norm, triton"]["detail"]
    assert found["attention is computed by"]["detail"].startswith("by_head")
    assert found["memory: tiny"]["status"] == "ok"
    assert {"rate: copy", "rate: matrix product", "rate: attention"} <= set(found)


def test_a_gpu_that_a_cpu_stands_in_for_is_wrong(root):
    verdict = machine.check_device(root)
    assert verdict.status == "wrong"
    assert verdict.detail.startswith("a GPU is there and unused, a CPU computes: JAX_PLATFORMS=cpu")
    assert machine.check_device(root / "elsewhere").status == "ok"


@pytest.mark.parametrize(
    ("release", "status", "says"),
    [("470.57.02", "wrong", "driver 470 is too old"), ("580.65.06", "ok", "1 GPU(s), driver 580")],
)
def test_a_driver_is_as_new_as_the_plugin_needs(root, release, status, says):
    if not machine.version("jax-cuda13-plugin"):
        pytest.skip("the plugin is not installed")
    say_driver(root, release)
    verdict = next(machine.check_driver(root))
    assert verdict.status == status
    assert says in verdict.detail


def test_a_gpu_without_a_plugin_is_one_line(root, monkeypatch):
    monkeypatch.setattr(machine, "has_plugin", lambda: False)
    [verdict] = machine.check_driver(root)
    assert (verdict.status, "no plugin for JAX" in verdict.detail) == ("wrong", True)


def test_packages_of_several_versions_do_not_go_together(monkeypatch):
    installed = {"jax": "0.10.2", "jaxlib": "0.10.1", "jax-cuda13-plugin": "0.10.2"}
    monkeypatch.setattr(machine, "version", installed.get)
    [verdict] = machine.check_packages()
    assert verdict.status == "wrong"
    assert "jaxlib 0.10.1" in verdict.detail


def serves(*_, **__):
    return None


def toy(run):
    """An operation of one array, whose plain version doubles it."""
    implementations = {"fast": Implementation(run, serves), "xla": Implementation(double, serves)}
    return Case("double", implementations, (jnp.arange(1.0, 9.0, dtype=jnp.bfloat16),), {})


def double(x):
    return x * 2


def fails(x):
    raise RuntimeError("no such\ninstruction")


@jax.custom_vjp
def wrong_gradient(x):
    return x * 2


wrong_gradient.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 3,))


@pytest.mark.parametrize(
    ("run", "status", "says"),
    [
        (double, "ok", "forward and backward"),
        (lambda x: x * 2.1, "wrong", "off by 0.048"),
        (lambda x: x * jnp.nan, "wrong", "off by nan"),
        (wrong_gradient, "wrong", "off by 0.5"),
        (fails, "wrong", "RuntimeError: no such instruction"),
    ],
)
def test_a_kernel_is_compared_forward_and_backward(run, status, says):
    case = toy(run)
    verdict = check_case(case, "fast", case.implementations["fast"], time.monotonic() + 60)
    assert verdict.status == status
    assert says in verdict.detail


@pytest.mark.parametrize("operation", ["gated_residual_norm", "quantize"])
def test_rounding_to_float8_is_within_its_tolerance(operation):
    """As any kernel is that rounds as the plain version does."""
    case = [case for case in cases(24) if case.operation == operation][-1]
    plain = case.implementations["xla"].run
    assert 0.01 < deviation(plain, plain, case) <= case.tolerance


def test_a_kernel_that_was_found_wrong_is_not_chosen(cache):
    """By None and "auto"; who names it gets it. Another device is not concerned."""
    case = toy(lambda x: x * 3)
    x = case.arrays[0]
    kind = jax.local_devices()[0].device_kind
    choose = lambda named: dispatch("double", case.implementations, named, x)[0]
    assert choose(None) == 3
    verdicts.record("another device", "double", "fast", "off by 1")
    assert choose(None) == 3
    verdicts.record(kind, "double", "fast", "off by 1")
    assert choose(None) == choose("auto") == 2
    assert choose("fast") == 3
    verdicts.record(kind, "double", "fast", verdicts.OK)
    assert choose("auto") == 3


def test_a_kernel_that_takes_the_process_with_it_stays_recorded():
    """What stands in the file while a kernel runs is a verdict against it."""
    verdicts.record("gpu", "double", "fast", verdicts.RUNNING)
    assert "the process ended while it ran" in (verdicts.against("gpu", "double", "fast") or "")


@pytest.mark.parametrize("content", ["", "[]", '{"gpu": 3}', "{"])
def test_a_damaged_file_of_verdicts_says_nothing(cache, content):
    file = verdicts.path()
    file.parent.mkdir(parents=True)
    file.write_text(content)
    assert verdicts.against("gpu", "double", "fast") is None


def test_no_check_begins_after_the_deadline():
    found = [one for one in check_kernels(16, 0.0) if one.check == "attention, by_head"]
    assert [one.detail for one in found] == ["there was no time left for it"]


def test_models_are_told_with_the_memory_they_need():
    found = {one.check: one for one in check_fits(command.known_models(), 40 * GIB)}
    assert found["memory: tiny"].detail.startswith("as it is")
    assert found["memory: helios_distilled"].status == "ok"
    assert "--release_text_encoder" in found["memory: helios_distilled"].detail
    few = {one.check: one.status for one in check_fits(command.known_models(), GIB)}
    assert few["memory: helios_distilled"] == "note"
