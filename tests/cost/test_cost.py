"""Kernels counted in compiled programs, against counts made by hand, and predicted times."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from helios_jax.cost import kernels
from helios_jax.cost.chips import CHIPS
from helios_jax.cost.graphs import Graphs, count_graphs
from helios_jax.cost.kernels import Count, Kernel, count
from helios_jax.cost.report import assumptions, kernel_seconds, largest_wastes, predict, table
from helios_jax.kernels.attention import attention
from helios_jax.kernels.dispatch import CAPABILITIES
from helios_jax.kernels.residual_norm import gated_residual, rms_norm
from helios_jax.memory.compiler import compile_for, unavailable
from helios_jax.memory.report import Program, measure

pytestmark = pytest.mark.skipif(
    unavailable() is not None, reason=f"cannot compile for a GPU: {unavailable()}"
)


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def counted(fn, *args, **options):
    """The kernels of a function compiled for an H100, by group."""
    found = {}
    for kernel in count(compile_for(fn, *args, **options).as_text()).kernels:
        found.setdefault(kernel.group, []).append(kernel)
    return found


def test_a_product_has_two_operations_a_multiplication():
    """256 x 512 x 1024 in bfloat16, operands and result moved once."""
    found = counted(jnp.dot, array(256, 512), array(512, 1024))
    [product] = found.pop(kernels.MATMUL)
    assert not found
    assert product.matrix == (1, 256, 1024, 512)
    assert product.operations == 2 * 256 * 512 * 1024
    assert product.read == 2 * (256 * 512 + 512 * 1024)
    assert product.written == 2 * 256 * 1024
    assert product.times == 1
    assert product.dtype == "bf16"


def test_a_batched_product_counts_its_batch():
    [product] = counted(
        lambda x, y: jnp.einsum("bij,bjk->bik", x, y), array(6, 64, 128), array(6, 128, 256)
    )[kernels.MATMUL]
    assert product.matrix[0] == 6
    assert product.operations == 2 * 6 * 64 * 128 * 256


def test_a_convolution_counts_every_tap_and_channel():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    found = counted(convolve, array(2, 16, 24, 64), array(3, 3, 64, 128))
    [convolution] = found[kernels.CONVOLUTION]
    assert convolution.operations == 2 * (2 * 16 * 24 * 128) * 9 * 64


def test_a_convolution_for_a_gradient_costs_as_much_as_forward():
    def gradient(x, kernel):
        def total(kernel):
            y = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return jnp.sum(y * y)

        return jax.grad(total)(kernel)

    found = counted(gradient, array(2, 16, 24, 64), array(3, 3, 64, 128))
    forward, backward = found[kernels.CONVOLUTION]
    assert forward.operations == backward.operations


def test_a_loop_runs_its_body_as_often_as_it_turns():
    def power(x, y):
        return jax.lax.scan(lambda x, _: (x @ y, None), x, None, length=7)[0]

    [product] = counted(power, array(256, 256), array(256, 256))[kernels.MATMUL]
    assert product.times == 7


def test_a_loop_of_unknown_length_counts_once_and_says_so():
    def until(x, y):
        return jax.lax.while_loop(lambda x: jnp.max(x) < 1, lambda x: x @ y, x)

    found = count(compile_for(until, array(256, 256), array(256, 256)).as_text())
    [product] = [one for one in found.kernels if one.group == kernels.MATMUL]
    assert product.times == 1
    assert found.notes == ("1 loop(s) of unknown length are counted once",)


def test_a_layer_taken_from_a_stack_is_a_copy_of_weights():
    """Each turn reads one layer of the stack, writes it, and multiplies by it."""

    def layers(x, stack):
        def step(x, layer):
            return x @ jax.lax.dynamic_index_in_dim(stack, layer, keepdims=False), None

        return jax.lax.scan(step, x, jnp.arange(5))[0]

    found = counted(layers, array(256, 512), array(5, 512, 512))
    layer = 2 * 512 * 512
    [copy] = [one for one in found[kernels.ARGUMENT_COPIES] if one.written == layer]
    assert layer <= copy.read <= layer + 8  # and the layer's number
    assert copy.times == 5


def test_separate_layers_are_not_copied():
    def layers(x, kernels):
        for kernel in kernels:
            x = x @ kernel
        return x

    found = counted(layers, array(256, 512), [array(512, 512)] * 3)
    assert set(found) == {kernels.MATMUL}


def test_a_fusion_reads_and_writes_each_array_once():
    """Nothing between is stored, and a slice is read as a slice."""

    def mix(x, y):
        return jnp.tanh(x) * 2 + y[:128]

    [fusion] = counted(mix, array(128, 512), array(1024, 512))[kernels.ELEMENTWISE]
    size = 2 * 128 * 512
    assert (fusion.read, fusion.written) == (2 * size, size)


def test_an_update_in_place_moves_the_update_only():
    def put(x, y):
        return jax.lax.dynamic_update_slice(x, y, (3, 0))

    jitted = jax.jit(put, donate_argnums=0)
    found = counted(jitted, array(1024, 512), array(16, 512))
    [copy] = found[kernels.LAYOUT]
    assert (copy.read, copy.written) == (2 * 16 * 512, 2 * 16 * 512)


def test_a_change_of_layout_is_no_arithmetic():
    """An argument that is turned and nothing else is a copy of it."""
    assert set(counted(lambda x: jnp.exp(x).T, array(256, 512))) == {kernels.ELEMENTWISE}
    [copy] = counted(lambda x: x.T.reshape(-1), array(256, 512))[kernels.ARGUMENT_COPIES]
    assert copy.read == copy.written == 2 * 256 * 512


def test_latents_that_are_turned_are_no_copy_of_weights():
    assert set(counted(lambda latents: latents.T.reshape(-1), array(256, 512))) == {kernels.LAYOUT}


def test_spare_rows_of_patches_come_with_the_patches():
    """What turns latents into rows writes the spare ones, too: no launch only pads."""

    def embed(latents, kernel):
        patches = latents.reshape(27, 2, 10, 2, 64).swapaxes(1, 2).reshape(540, 128)
        return jnp.pad(patches, ((0, 4), (0, 0))) @ kernel

    found = counted(embed, array(54, 20, 64), array(128, 512))
    assert set(found) == {kernels.MATMUL, kernels.LAYOUT}
    assert [one.times for one in found[kernels.LAYOUT]] == [1]


def test_padding_around_a_product_is_found():
    """XLA pads a product's 1020 rows to 1024 and cuts them off again."""
    found = counted(jnp.dot, array(1020, 512), array(512, 512))
    assert [(one.read, one.written) for one in found[kernels.PADDING]] == [
        (2 * 1020 * 512, 2 * 1024 * 512),
        (2 * 1020 * 512, 2 * 1020 * 512),
    ]
    assert kernels.PADDING not in counted(jnp.dot, array(1024, 512), array(512, 512))


def test_a_bias_of_one_axis_joins_the_product():
    """And one of two axes does not: it is stored as large as the result first, or added after."""

    def flat(x, kernel, bias):
        return x @ kernel + bias[None]

    def split(x, kernel, bias):
        return jnp.tensordot(x, kernel, 1) + bias[None]

    found = counted(flat, array(1024, 512), array(512, 1024), array(1024))
    assert set(found) == {kernels.MATMUL}
    found = counted(split, array(1024, 512), array(512, 8, 128), array(8, 128))
    assert found[kernels.BIAS][0].written == 2 * 1024 * 1024


def test_attention_counts_all_scores():
    q = array(1, 256, 4, 64)
    k = array(1, 512, 4, 64)
    for implementation in ("cudnn", "pallas"):

        def attend(q, k, v, implementation=implementation):
            return attention(q, k, v, implementation=implementation)

        [kernel] = counted(attend, q, k, k)[kernels.ATTENTION]
        assert kernel.operations == 4 * 256 * 512 * 4 * 64
        assert kernel.read == 2 * (256 + 2 * 512) * 4 * 64


def test_attention_backward_has_five_products():
    def loss(q, k, v):
        return attention(q, k, v, implementation="cudnn").astype(jnp.float32).sum()

    q = array(1, 256, 4, 64)
    found = counted(jax.grad(loss, argnums=(0, 1, 2)), q, q, q)
    [forward] = found[kernels.ATTENTION]
    [backward] = found[kernels.ATTENTION_BACKWARD]
    assert backward.operations == 2.5 * forward.operations == 10 * 256 * 256 * 4 * 64


def test_a_fused_kernel_moves_its_arrays_once():
    """An absent array has another in its place, which counts once; each of two absent results
    is a number of 2 bytes.
    """
    x = array(1, 512, 1024)
    scale = array(1024)
    size = 2 * 512 * 1024
    for implementation in ("triton", "pallas"):

        def norm(x, scale, implementation=implementation):
            return rms_norm(x, scale, eps=1e-6, implementation=implementation)

        [kernel] = counted(norm, x, scale)[kernels.FUSED]
        assert size <= kernel.read <= size + 2 * 1024
        assert size <= kernel.written <= size + 4


def test_a_sum_in_place_is_written_where_there_is_a_term():
    """Of 512 tokens 128 are added to; the others stay as they are."""

    def add(x, y):
        return gated_residual(x, y, None, history=384, implementation="triton")

    found = counted(jax.jit(add, donate_argnums=0), array(1, 512, 1024), array(1, 128, 1024))
    [kernel] = found[kernels.FUSED]
    assert kernel.written - 4 == 2 * 128 * 1024


def test_what_comes_from_host_memory_is_counted_apart():
    from helios_jax.checkpoint.params import blocks_in_host_memory

    stack = blocks_in_host_memory({"blocks": array(5, 512, 512)})["blocks"]

    def layers(x, stack):
        def step(x, layer):
            kernel = jax.lax.dynamic_index_in_dim(stack, layer, keepdims=False)
            return x @ jax.device_put(kernel, jax.memory.Space.Device), None

        return jax.lax.scan(step, x, jnp.arange(5))[0]

    found = counted(layers, array(256, 512), stack)
    total = sum(one.times * one.host for group in found.values() for one in group)
    assert total == 5 * 2 * 512 * 512


def test_what_a_backward_pass_computes_again_is_marked():
    def loss(x, y):
        block = jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x @ y) @ y))
        return block(x).sum()

    found = counted(jax.grad(loss), array(256, 256), array(256, 256))
    assert [one.again for one in found[kernels.MATMUL]].count(True) == 1


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("jax_triton") is None, reason="jax-triton is not installed"
)


@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=needs_triton), "pallas"])
def test_products_and_fused_kernels_are_one_cuda_graph(implementation):
    """A kernel's call that no graph can hold would end the graph before it."""

    def layers(x, scale, kernel):
        for _ in range(4):
            x = rms_norm(x @ kernel, scale, eps=1e-6, implementation=implementation)
        return x

    arguments = (array(1, 256, 512), array(512), array(512, 512))
    found = measure(Program(jax.jit(layers), arguments), "h100").kernels
    assert found.graphs == Graphs(graphs=1, held=8, kernels=8)
    assert sum(kernel.times for kernel in found.kernels) == 8


LISTED = """\
001: kCopy  [source       | next=002 (1)] kCopy
002: kWhile [prev=001 (1) | next=008 (1)]
condition:
    003: kCustomKernel [source | sink] loop_compare_fusion
  body:
    000: kCommandBuffer [source | sink]
        004: kCustomKernel [source       | next=005 (1)] loop_add_fusion
        005: kCustomCall   [prev=004 (1) | sink        ] kCustomCall
    003: kAsyncStart [source | sink] stream=computation_stream[1], async_id=3
        006: kCopy     [source | sink] kCopy
    007: kAsyncDone [source | sink] async_id=3
008: kConditional [prev=002 (1) | sink]
  true_branch:
    009: kCublasLtMatmul [source | sink] kCublasLtMatmul
"""


def test_a_graph_in_a_loop_is_launched_at_every_turn():
    """And what only waits is no kernel."""
    found = count_graphs(LISTED, [5])
    assert found == Graphs(graphs=5, held=10, kernels=1 + 5 * 3 + 1)
    assert str(found) == "CUDA graphs: 10 of 17 kernels in 5 graphs"


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        count("HloModule nothing")


def kernel(group, **fields):
    given = {"operations": 0, "read": 0, "written": 0, "host": 0, "times": 1}
    return Kernel(group, **(given | fields))


def test_a_kernel_takes_the_longer_of_its_operations_and_its_bytes():
    chip = CHIPS["h200"]
    bound_by_memory = kernel(kernels.ATTENTION, operations=600e9, read=43e9)
    assert kernel_seconds(bound_by_memory, chip) == pytest.approx(10e-3)
    bound_by_arithmetic = bound_by_memory._replace(operations=60e12)
    assert kernel_seconds(bound_by_arithmetic, chip) == pytest.approx(0.1)


def test_a_product_pays_for_a_wave_that_does_not_fill_the_chip():
    """133 tiles on 132 multiprocessors take nearly twice as long as 132."""

    def seconds(columns):
        operations = 2.0 * 128 * columns * 65536
        one = kernel(kernels.MATMUL, operations=operations, matrix=(1, 128, columns, 65536))
        return kernel_seconds(one, CHIPS["h100"])

    assert seconds(133 * 256) / seconds(132 * 256) > 1.4


def test_wastes_are_told_in_words_largest_first():
    found = Count(
        (
            kernel(kernels.ARGUMENT_COPIES, read=4.3e9, written=4.3e9),
            kernel(kernels.BIAS, written=4.3e9),
            kernel(kernels.FUSED, read=4.3e9),
        )
    )
    prediction = predict(found, CHIPS["h200"])
    assert largest_wastes({"chunk": prediction}, 2) == [
        "weight copies 2.0 ms",
        "biases that no product's epilogue adds 1.0 ms",
    ]
    assert prediction.seconds == pytest.approx(4e-3 + 3e-6)
    assert table("chunk", prediction).startswith("chunk: 4.0 ms\n  fused kernels")


def test_a_program_bound_by_the_bus_takes_what_the_bus_takes():
    found = Count((kernel(kernels.FUSED, read=4.3e9, host=50e9),))
    assert predict(found, CHIPS["h200"]).seconds == pytest.approx(1.0)


def test_every_chip_says_where_its_rates_come_from():
    """And none is assumed to exceed what its maker states."""
    for chip in CHIPS.values():
        assert "assumed" in assumptions(chip)
        assert chip.rates.matmul < chip.peak
        assert chip.rates.copy < chip.bandwidth


def test_kernels_know_the_capability_of_every_chip():
    for chip in CHIPS.values():
        known = {value for part, value in CAPABILITIES.items() if part in chip.name}
        assert known == {chip.capability}
