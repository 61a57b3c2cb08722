"""What a request is said to need."""

import dataclasses
import functools
import pickle
import re
import runpy
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from helios_jax.checkpoint.params import abstract_params, blocks_in_host_memory
from helios_jax.config import HeliosConfig, from_dict
from helios_jax.cost.kernels import ARGUMENT_COPIES, BIAS, Count, Kernel, count
from helios_jax.cost.report import predict
from helios_jax.memory import compiler as gpu_compiler
from helios_jax.memory import sampling as plan
from helios_jax.memory.report import (
    GIB,
    CompilerAbsentError,
    ProgramMemory,
    measure,
    program_memory,
    time_report,
)
from helios_jax.memory.sampling import (
    CHUNK_PROGRAMS,
    Placement,
    estimate_request,
    plan_request,
    predicted_rate,
    request_programs,
)
from helios_jax.models.transformer import HeliosTransformer
from helios_jax.sampling.request import make_request
from helios_jax.types import tree_bytes
from tests.sampling.conftest import TOY

CONFIGS = Path(__file__).parents[2] / "configs"
DISTILLED = from_dict(
    HeliosConfig, runpy.run_path(str(CONFIGS / "helios_distilled.py"))["get_config"]()
)


@pytest.fixture
def compiler(monkeypatch):
    """A compiler that finds a program's name to be its size, and keeps what it was asked."""
    asked = []

    def compile_all(make_programs, args, target):
        asked.append((functools.partial(make_programs, *args), target))
        for number, name in enumerate(
            ("text encoder", "text keys and values", "chunk", "VAE decoder")
        ):
            yield (
                name,
                ProgramMemory(
                    arguments=7,
                    outputs=3 * GIB,
                    aliased=GIB,
                    temporary=number * GIB,
                    host=0,
                    seconds=0.0,
                ),
            )

    monkeypatch.setattr(plan, "program_memory", compile_all)
    return asked


def test_peak_is_what_is_held_and_the_largest_program(compiler):
    """Programs run in turn, so only the one that needs most counts; arguments are counted once,
    among what is held.
    """
    found = plan_request(make_request(TOY))
    assert found.working == {
        "text encoder": 2 * GIB,
        "text keys and values": 3 * GIB,
        "chunk": 4 * GIB,
        "VAE decoder": 5 * GIB,
    }
    assert found.peak == sum(found.resident.values()) + 5 * GIB
    assert found.source == "as compiled for NVIDIA H100 80GB HBM3"


def test_the_process_that_compiles_is_asked_for_this_request(compiler):
    """Programs made from what it is sent are those of the request."""
    config = dataclasses.replace(TOY, sample=dataclasses.replace(TOY.sample, guidance_scale=2.0))
    request = make_request(config, batch=2, num_frames=70, height=128, steps=(2, 1, 3))
    plan_request(request, "h200")
    [(make_programs, target)] = compiler
    sent = pickle.loads(pickle.dumps(make_programs))()
    expected = request_programs(request, "bfloat16", "bfloat16")
    assert target == "h200"
    assert shapes(sent) == shapes(expected)
    keys = shapes(sent)["chunk"][3].key  # of three blocks
    assert [shape[:2] for shape, _ in keys] == [(4, 96)] * 3


def shapes(programs):
    """Of the arguments of programs."""
    found = {}
    for name, program in programs.items():
        found[name] = jax.tree.map(lambda x: (x.shape, x.dtype), program.args)
    return found


def test_a_released_text_encoder_is_not_counted(compiler):
    request = make_request(TOY)
    whole = plan_request(request)
    without = plan_request(request, placement=Placement(text_encoder=False))
    assert whole.peak - without.peak == whole.resident["text encoder"] > 0
    assert "text encoder" not in without.working


def test_what_has_gone_before_counts_where_it_was_larger(compiler):
    """A released text encoder was there alone: the peak is the larger of that time's and the
    rest's, each printed.
    """
    found = plan_request(make_request(TOY), placement=Placement(text_encoder=False))
    assert found.before == {"text encoder": 7 + 2 * GIB}
    assert found._replace(before={"text encoder": 9 * GIB}).peak == 9 * GIB
    assert "before the rest is loaded\n  text encoder                          2.00 GiB" in str(
        found
    )


def test_streamed_blocks_move_from_device_to_host(compiler):
    """What the device no longer holds, the host does; the process that compiles is told."""
    request = make_request(DISTILLED)
    whole = plan_request(request)
    streamed = plan_request(request, placement=Placement(stream_blocks=True))
    blocks = streamed.host["the transformer's blocks"]
    assert round(blocks / GIB, 1) == 26.2
    assert (
        whole.resident["transformer"] - streamed.resident["transformer"]
        == blocks
        == sum(streamed.host.values()) - sum(whole.host.values())
    )
    assert [ask.args[-1].stream_blocks for ask, _ in compiler] == [False, True]


def test_eight_bits_are_half_of_sixteen(compiler):
    """Of the blocks' kernels, once they are rounded; until then all weights are there as they were.
    The process that compiles is told.
    """
    request = make_request(DISTILLED)
    whole = plan_request(request)
    rounded = plan_request(request, placement=Placement(quantization="int8"))
    assert 0.5 < rounded.resident["transformer"] / whole.resident["transformer"] < 0.52
    [loading] = rounded.before.values()
    # Kernels of the blocks, as they were and in eight bits.
    both = 1.4 * whole.resident["transformer"]
    assert loading > both + whole.resident["text encoder"] + whole.resident["VAE"]
    programs = request_programs(
        make_request(TOY), "bfloat16", "bfloat16", Placement(quantization="fp8")
    )
    kernel = programs["chunk"].args[0]["blocks"]["ffn"]["up"]
    assert {layer.dtype for layer in kernel["kernel"]} == {jnp.dtype(jnp.float8_e4m3fn)}
    assert [ask.args[-1].quantization for ask, _ in compiler] == [None, "int8"]


def test_without_a_compiler_an_estimate_says_that_it_is_one(monkeypatch):
    def absent(*_):
        raise CompilerAbsentError("no plugin")
        yield

    monkeypatch.setattr(plan, "program_memory", absent)
    found = plan_request(make_request(TOY))
    assert found.source.startswith("estimated by arithmetic (no plugin: pip install")
    assert "estimated by arithmetic" in str(found)


def test_estimate_of_the_released_model():
    """Weights and caches to the byte: 14B in bfloat16, save the parameters that stay float32;
    UMT5-XXL; the VAE in bfloat16.
    """
    resident = estimate_request(make_request(DISTILLED), "bfloat16", fused_attention=True).resident
    assert {part: round(size / GIB, 2) for part, size in resident.items()} == {
        "transformer": 26.71,
        "text encoder": 10.58,
        "VAE": 0.24,
        "text keys and values": 0.39,
        "history and noise": 0.01,
    }


def test_table_adds_up(compiler):
    """Parts that are printed as held and each program's own make the total printed beside it."""
    text = str(plan_request(make_request(DISTILLED)))
    held = sum(
        float(size)
        for size in re.findall(
            r"^  .*? ([\d.]+) GiB$", text.partition("working memory")[0], re.MULTILINE
        )
    )
    totals = re.findall(r"([\d.]+) GiB, ([\d.]+) in all$", text, re.MULTILINE)
    assert len(totals) == 4
    assert all(abs(held + float(own) - float(total)) < 0.05 for own, total in totals)


@pytest.mark.slow
def test_released_model_fits_beside_its_text_encoder(monkeypatch):
    """14B Distilled, 384x640, batch 1, bfloat16, decoding included: at most 48 GiB of an H100, and
    37 once the text encoder is gone.
    """
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    if reason := gpu_compiler.unavailable():
        pytest.skip(f"no compiler for GPUs: {reason}")
    found = plan_request(make_request(DISTILLED))
    assert found.peak <= 48 * GIB
    assert found.peak - found.resident["text encoder"] <= 37 * GIB
    streamed = estimate_request(
        make_request(DISTILLED),
        "bfloat16",
        placement=Placement(text_encoder=False, stream_blocks=True),
    )
    assert sum(streamed.resident.values()) + found.working["VAE decoder"] <= 12 * GIB


def test_released_model_in_small_memory(monkeypatch):
    """14B Distilled, 384x640, batch 1, bfloat16, blocks streamed from host memory: at most 12 GiB,
    text encoding and decoding included.
    """
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    if reason := gpu_compiler.unavailable():
        pytest.skip(f"no compiler for GPUs: {reason}")
    request = make_request(DISTILLED)
    low = Placement(text_encoder=False, stream_blocks=True)
    chunk = measure(request_programs(request, "bfloat16", "bfloat16", low)["chunk"], "h100")
    found = estimate_request(request, "bfloat16", "bfloat16", low, fused_attention=True)
    assert found._replace(working={"chunk": chunk.working}).peak <= 12 * GIB


def test_streamed_blocks_are_never_on_the_device_together():
    """Compiled at full width, one copy of a block's kernel after another comes from host memory,
    and there is no such kernel of all blocks.
    """
    if reason := gpu_compiler.unavailable():
        pytest.skip(f"no compiler for GPUs: {reason}")
    config = dataclasses.replace(
        DISTILLED, transformer=dataclasses.replace(DISTILLED.transformer, num_layers=4)
    )
    params = blocks_in_host_memory(abstract_params(config, "bfloat16")["transformer"])
    model = HeliosTransformer(config.transformer, jnp.bfloat16)
    latents = jax.ShapeDtypeStruct((1, 3, 8, 8, 16), jnp.bfloat16)
    time = jax.ShapeDtypeStruct((1,), jnp.float32)
    features = jax.ShapeDtypeStruct((1, 64, 4096), jnp.bfloat16)

    def velocity(params, latents, time, features):
        return model.apply({"params": params}, latents, time, features)

    program = gpu_compiler.compile_for(velocity, params, latents, time, features)
    memory = program.memory_analysis()
    text = program.as_text()
    assert memory.host_argument_size_in_bytes == tree_bytes(params["blocks"])
    assert memory.temp_size_in_bytes < 0.5 * tree_bytes(params["blocks"])
    assert "bf16[1,5120,13824]{2,1,0}" in text
    assert set(re.findall(r"bf16\[4,5120,13824\]\{([^}]*)\}", text)) == {"2,1,0:S(5)"}


def test_the_chunk_program_spills_nothing_and_has_its_kernels(monkeypatch):
    """Three layers of full width, all stages: no kernel of XLA's keeps registers in memory, and the
    fused ones and cuDNN's attention are there.
    """
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    if reason := gpu_compiler.unavailable():
        pytest.skip(f"no compiler for GPUs: {reason}")
    config = dataclasses.replace(
        DISTILLED, transformer=dataclasses.replace(DISTILLED.transformer, num_layers=3)
    )
    request = make_request(config, steps=(1, 1, 1))
    chunk = request_programs(request, "bfloat16", "bfloat16")["chunk"]
    strict = {"xla_gpu_fail_ptx_compilation_on_register_spilling": True}
    text = gpu_compiler.compile_for(chunk.function, *chunk.args, options=strict).as_text()
    calls = Counter(re.findall(r'custom_call_target="([^"]+)"', text))
    blocks = 3 * 3  # layers and stages
    assert calls["__cudnn$fmhaSoftmax"] == 2 * blocks  # to all tokens, and to the text
    # q k v, two sums with norms, norm of text queries, sum with the next block's norm.
    assert calls["triton_kernel_call_ffi"] + calls["mosaic_gpu_v2"] >= 5 * blocks
    # No weight is copied, and no bias goes by itself.
    found = {kernel.group: kernel for kernel in count(text).kernels if kernel.written > 1e7}
    assert not {ARGUMENT_COPIES, BIAS} & set(found)


@pytest.mark.parametrize(
    "named", [{"kernels": "pallas"}, {"kernels": "triton"}, {"attention": "cudnn"}]
)
def test_a_kernel_that_serves_the_gpu_is_not_refused_for_the_machine(named, monkeypatch):
    """Shapes of programs are traced for the GPU that is asked about, not for the CPU that asks."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    if reason := gpu_compiler.unavailable():
        pytest.skip(f"no compiler for GPUs: {reason}")
    transformer = dataclasses.replace(DISTILLED.transformer, num_layers=1, **named)
    config = dataclasses.replace(DISTILLED, transformer=transformer)
    args = (make_request(config), "bfloat16", "bfloat16", Placement())
    name, memory = next(program_memory(request_programs, args, "h200"))
    assert name == "text encoder"
    assert memory.temporary > 0


def test_frames_a_second_are_predicted_of_what_runs_for_every_chunk():
    """33 frames in the seconds of the chunk and of the decoder; the text is encoded once."""
    copies = Kernel(ARGUMENT_COPIES, read=4.3e12)
    chunk = predict(Count((copies,)), gpu_compiler.TARGETS["h200"])
    text = predict(Count((copies._replace(times=100.0),)), gpu_compiler.TARGETS["h200"])
    request = make_request(DISTILLED)
    found = estimate_request(request, "bfloat16", fused_attention=True)
    assert predicted_rate(request, found) is None
    times = {"text encoder": text, "chunk": chunk, "VAE decoder": chunk}
    rate = predicted_rate(request, found._replace(times=times))
    assert rate == pytest.approx(33 / 2, rel=1e-3)
    assert "of chunk and VAE decoder, most is lost to: weight copies 2000.0 ms" in time_report(
        found._replace(times=times), gpu_compiler.TARGETS["h200"], CHUNK_PROGRAMS
    )
