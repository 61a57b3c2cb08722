"""Altered states: a video goes on from what was saved, or is refused in one line."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from helios_jax.diffusion.drift import DriftControl
from helios_jax.sampling.request import RequestError, make_request
from helios_jax.sampling.state import load_state, save_state
from helios_jax.sampling.state_schema import FORMAT, FORMAT_2
from helios_jax.writers import tensor_bytes, tensor_digest
from tests.test_readers import damaged

from .conftest import TOY


@pytest.fixture(scope="module")
def saved(pipeline, tmp_path_factory):
    """The state after the second of three chunks, with drift controlled."""
    states = []
    request = make_request(
        TOY, num_frames=99, height=64, width=64, drift=DriftControl(mean_threshold=1.0)
    )
    stream = pipeline.stream(
        "a red ball", request, output="latent", on_chunk=lambda record: states.append(record.state)
    )
    for _ in range(2):
        next(stream)
    path = tmp_path_factory.mktemp("state") / "state"
    save_state(path, states[1])
    return path


def read(path):
    """The arrays, the metadata and the description of a file."""
    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    return arrays, metadata, json.loads(metadata["state"])


def write(path, arrays, metadata, rest, *, version=FORMAT, signed=False):
    """A file as someone might alter it: with its old digest, with a new one, or in the format that
    has none.
    """
    metadata = {**metadata, "format": version, "state": json.dumps(rest)}
    digest = metadata.pop("digest")
    if version == FORMAT:
        metadata["digest"] = tensor_digest(arrays, metadata) if signed else digest
    path.write_bytes(tensor_bytes(arrays, metadata))


def refusal(path):
    """The one line by which a file is refused; empty if it is read."""
    message = ""
    try:
        load_state(path)
    except RequestError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def test_a_state_is_read_back_and_its_bytes_are_always_the_same(saved, tmp_path):
    state = load_state(saved)
    assert state.chunk == 2
    save_state(tmp_path / "again", state)
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


ALTERATIONS = {
    "chunk": lambda arrays, rest: rest.update(chunk=1),
    "seed": lambda arrays, rest: rest["request"].update(seed=7),
    "prompt": lambda arrays, rest: rest["prompts"][0][0].__setitem__(1, ["a blue ball"]),
    "rows": lambda arrays, rest: rest.update(text_rows=128),
    "solver": lambda arrays, rest: rest["request"].update(solver="euler"),
    "exponent": lambda arrays, rest: flip(arrays["history/ring"]),
    "zeros": lambda arrays, rest: arrays["history/anchor"].fill(0),
    "drift": lambda arrays, rest: arrays["drift/mean"].__iadd__(1e-3),
    "swapped": lambda arrays, rest: arrays.update(
        {"drift/mean": arrays["drift/variance"], "drift/variance": arrays["drift/mean"]}
    ),
}
"""Values that a state may have, but that this one has not."""


def flip(array):
    """The lowest bit of an exponent."""
    array.reshape(-1)[:1].view(np.uint32)[:] ^= 1 << 23


@pytest.mark.parametrize("name", ALTERATIONS)
def test_other_values_are_found_by_the_digest(saved, tmp_path, name):
    arrays, metadata, rest = read(saved)
    ALTERATIONS[name](arrays, rest)
    write(tmp_path / "state", arrays, metadata, rest)
    assert "it is altered: its digest is not that of its content" in refusal(tmp_path / "state")


def cast(name, dtype):
    return lambda arrays, rest: arrays.update({name: arrays[name].astype(dtype)})


def cut(name):
    return lambda arrays, rest: arrays.update({name: arrays[name][..., :1]})


IMPOSSIBLE = {
    "nan": (lambda arrays, rest: arrays["history/ring"].fill(np.nan), "NaN or infinite"),
    "infinite": (lambda arrays, rest: arrays["drift/mean"].fill(np.inf), "NaN or infinite"),
    "variance": (lambda arrays, rest: arrays["drift/variance"].fill(-1), "values below 0"),
    "anchored": (lambda arrays, rest: arrays["history/anchored"].fill(0), "anchored is false"),
    "integers": (cast("history/ring", np.int32), r"history/ring is I32\[.*, not F32\["),
    "halves": (cast("drift/mean", np.float16), r"drift/mean is F16\[.*, not F32\["),
    "doubles": (cast("history/anchor", np.float64), r"history/anchor is F64\[.*, not F32\["),
    "shape": (cut("history/ring"), r"history/ring is F32\[1, 19, 8, 8, 1\], not F32\[1, 19, 8"),
    "missing": (lambda arrays, rest: arrays.pop("drift/mean"), "drift/mean is missing"),
    "more": (lambda arrays, rest: arrays.update(a=np.zeros(1)), "a is too much"),
    "no drift": (lambda arrays, rest: rest["request"].update(drift=None), "is too much"),
    "chunk": (lambda arrays, rest: rest.update(chunk=4), "chunk=4 must be a whole number"),
    "float": (lambda arrays, rest: rest.update(chunk=2.0), r"chunk=2\.0 must be a whole number"),
    "true": (lambda arrays, rest: rest.update(chunk=True), "chunk=True must be a whole number"),
    "rows": (lambda arrays, rest: rest.update(text_rows=10**9), "text_rows=1000000000 must be"),
    "prompts": (lambda arrays, rest: rest.update(prompts=[]), "prompts must be a list of 2"),
    "no prompt": (lambda arrays, rest: rest.update(prompts=[[], None]), "no prompt for chunk 2"),
    "number": (
        lambda arrays, rest: rest.update(prompts=[[[0, [5], 0]], None]),
        "must be 1 strings",
    ),
    "batch": (
        lambda arrays, rest: rest.update(prompts=[[[0, ["a", "b"], 0]], None]),
        "must be 1 strings",
    ),
    "empty": (
        lambda arrays, rest: rest.update(prompts=[[[0, [" "], 0]], None]),
        "the prompt is empty",
    ),
    "order": (
        lambda arrays, rest: rest.update(prompts=[[[1, ["a"], 0], [0, ["b"], 0]], None]),
        "do not ascend",
    ),
    "blends": (
        lambda arrays, rest: (
            rest.update(
                chunk=3,
                prompts=[[[i, ["a"], 99999] for i in range(5000)], None],
                request=rest["request"] | {"num_frames": 33 * 5000},
            )
            or rest.update(chunk=4999)
        ),
        "nested too deeply",
    ),
    "field": (lambda arrays, rest: rest["request"].update(sweet=1), "sweet"),
    "seed": (lambda arrays, rest: rest["request"].update(seed=0.5), "seed=0.5"),
    "steps": (lambda arrays, rest: rest["request"].update(steps=[]), "steps"),
    "height": (lambda arrays, rest: rest["request"].update(height=-64), "height"),
    "config": (lambda arrays, rest: rest.update(config=[]), "mapping of fields"),
    "layers": (lambda arrays, rest: rest["config"]["transformer"].update(num_layers=0), "num_lay"),
    "no config": (lambda arrays, rest: rest.pop("config"), "it has no config"),
}
"""Values that no state has, whoever signs it."""


@pytest.mark.parametrize("version", [FORMAT, FORMAT_2])
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_values_are_refused_whatever_the_digest(saved, tmp_path, name, version):
    arrays, metadata, rest = read(saved)
    alter, message = IMPOSSIBLE[name]
    alter(arrays, rest)
    write(tmp_path / "state", arrays, metadata, rest, version=version, signed=True)
    with pytest.raises(RequestError, match=message):
        load_state(tmp_path / "state")


def test_a_state_without_a_digest_is_read_with_a_line(saved, tmp_path, caplog):
    """Of an earlier version; one of this version cannot be without."""
    write(tmp_path / "state", *read(saved), version=FORMAT_2)
    assert load_state(tmp_path / "state").chunk == 2
    assert "saved by an earlier version, without a digest" in caplog.text
    arrays, metadata, _ = read(saved)
    for other in ({**metadata, "format": FORMAT_2}, {**metadata, "more": ""}):
        (tmp_path / "state").write_bytes(tensor_bytes(arrays, other))
        assert "its metadata are" in refusal(tmp_path / "state")


def test_every_flipped_bit_and_every_cut_is_found(saved, tmp_path, record_property):
    """600 of each, anywhere in the file; what is read all the same says the same."""
    record_property("cases", 1200)
    content = saved.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "state"
    for place in rng.integers(0, len(content), 600):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        assert refusal(path), place
    for length in rng.integers(0, len(content), 600):
        path.write_bytes(content[:length])
        assert refusal(path), length


def test_damaged_descriptions_are_refused(saved, tmp_path, record_property):
    """300 scraps in the JSON, unsigned and signed."""
    arrays, metadata, _ = read(saved)
    rng = np.random.default_rng(1)
    record_property("cases", 300)
    refused = 0
    for number in range(300):
        text = damaged(metadata["state"].encode(), rng).decode(errors="replace")
        altered = {**metadata, "state": text}
        if number % 2:
            altered.pop("digest")
            altered["digest"] = tensor_digest(arrays, altered)
        (tmp_path / "state").write_bytes(tensor_bytes(arrays, altered))
        refused += bool(refusal(tmp_path / "state"))
    assert refused > 200
