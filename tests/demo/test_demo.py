"""The live page's interface over HTTP, with a model of toy size."""

import base64
import concurrent.futures
import contextlib
import http.client
import io
import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helios_jax import HeliosPipeline
from helios_jax.demo.asked import read_asked
from helios_jax.demo.line import Line
from helios_jax.demo.options import DemoOptions
from helios_jax.demo.server import DemoServer
from helios_jax.demo.video import DemoVideo
from helios_jax.media import live_frames, load_latents
from helios_jax.writers import WriteError
from tests.sampling.conftest import TOY

ROOT = Path(__file__).parents[2]
PROMPT = "a red ball"
OTHER = "two blue squares"
PATIENT = DemoOptions(lease_s=1000.0)
"""For visitors who only look when a video should be ready."""


@pytest.fixture(scope="module")
def pipeline():
    return HeliosPipeline.random(TOY)


class Client:
    """Speaks to a server as a page does."""

    def __init__(self, port: int, **headers: str):
        self.port = port
        self.headers = headers

    def send(self, method: str, path: str, body=None, **headers: str):
        """Status and content of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        given = {"Content-Type": "application/json"} | self.headers | headers
        data = None if body is None else json.dumps(body)
        try:
            connection.request(method, path, data, given)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body=None):
        status, content = self.send(method, path, body)
        return status, json.loads(content)

    def start(self, prompt=PROMPT, chunks=2, **fields):
        status, video = self.json(
            "POST", "/api/videos", {"prompt": prompt, "chunks": chunks, **fields}
        )
        assert status == 201, video
        return video["id"]

    def wait(self, name: str, made: int):
        """The description once so many chunks are made, or the video has ended."""
        while True:
            _, video = self.json("GET", f"/api/videos/{name}?made={made}")
            if video["made"] >= made or video["status"] not in ("waiting", "making"):
                return video

    def latents(self, name: str, folder: Path) -> np.ndarray:
        path = folder / f"{name}.safetensors"
        path.write_bytes(self.send("GET", f"/api/videos/{name}/latents.safetensors")[1])
        return load_latents(path)[0]


def serve(pipeline, stack, token="", **limits):
    """A client of a server that the test's end closes."""
    line = stack.enter_context(Line(pipeline, DemoOptions(**limits)))
    server = stack.enter_context(DemoServer(line, "127.0.0.1", 0, token=token))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    stack.callback(thread.join)
    stack.callback(server.shutdown)
    return Client(server.server_address[1])


@pytest.fixture(scope="module")
def client(pipeline):
    with contextlib.ExitStack() as stack:
        yield serve(pipeline, stack)


def test_a_video_grows_chunk_by_chunk_and_its_pieces_are_the_whole(client, tmp_path):
    name = client.start(chunks=2, seed=3)
    client.wait(name, 2)  # which compiles
    _, header = client.send("GET", f"/api/videos/{name}/header.mp4")
    pieces = [client.send("GET", f"/api/videos/{name}/chunks/{k}")[1] for k in range(2)]
    status, whole = client.send("GET", f"/api/videos/{name}/video.mp4")
    assert status == 200
    assert header + b"".join(pieces) == whole
    (tmp_path / "a.mp4").write_bytes(whole)
    assert live_frames(tmp_path / "a.mp4") == [33, 66]
    video = client.wait(name, 2)
    assert video["status"] == "done"
    assert [row["chunk"] for row in video["statistics"]] == [0, 1]
    assert len(video["seconds"]) == 2


def test_its_latents_are_those_that_the_pipeline_makes(client, pipeline, tmp_path):
    name = client.start(chunks=2, seed=3)
    client.wait(name, 2)
    expected = pipeline.generate(PROMPT, num_frames=66, seed=3, output="latent")
    np.testing.assert_allclose(client.latents(name, tmp_path), expected, rtol=1e-4, atol=1e-5)


def test_a_prompt_that_is_sent_takes_effect_and_the_command_tells_it(client, tmp_path):
    """The chunks before it are those of a video without it."""
    plain = client.start(chunks=3)
    client.wait(plain, 3)
    name = client.start(chunks=3)
    status, _ = client.json("POST", f"/api/videos/{name}/prompt", {"prompt": OTHER})
    assert status == 200
    video = client.wait(name, 3)
    changed = video["prompts"][-1]
    assert changed["prompt"] == OTHER
    ours, theirs = client.latents(name, tmp_path), client.latents(plain, tmp_path)
    first = 9 * changed["chunk"]
    np.testing.assert_array_equal(ours[:, :first], theirs[:, :first])
    assert np.any(ours[:, first:] != theirs[:, first:])
    _, command = client.send("GET", f"/api/videos/{name}/command.txt")
    assert OTHER in command.decode()
    assert f"--num_frames {99}" in command.decode()


def test_a_branch_keeps_the_chunks_before_it_and_goes_on_otherwise(client, tmp_path):
    """With the same prompt it is the same video bit for bit; with another it differs."""
    name = client.start(chunks=3)
    client.wait(name, 3)
    whole = client.latents(name, tmp_path)
    for prompt, same in ((None, True), (OTHER, False)):
        body = {"chunk": 1, "chunks": 3} | ({"prompt": prompt} if prompt else {})
        status, branch = client.json("POST", f"/api/videos/{name}/branch", body)
        assert status == 201
        assert client.wait(branch["id"], 3)["status"] == "done"
        found = client.latents(branch["id"], tmp_path)
        np.testing.assert_array_equal(found[:, :9], whole[:, :9])
        assert np.array_equal(found[:, 9:], whole[:, 9:]) == same


def test_a_paused_video_goes_on_as_if_it_never_had_been(client, tmp_path):
    plain = client.start(chunks=4)
    client.wait(plain, 4)
    name = client.start(chunks=4)
    client.wait(name, 1)
    assert client.json("POST", f"/api/videos/{name}/pause", {})[1]["status"] in ("paused", "done")
    client.json("POST", f"/api/videos/{name}/resume", {})
    client.wait(name, 4)
    np.testing.assert_array_equal(client.latents(name, tmp_path), client.latents(plain, tmp_path))


def test_a_video_may_begin_from_an_image(client):
    image = io.BytesIO()
    Image.new("RGB", (50, 40), "red").save(image, "PNG")
    name = client.start(chunks=1, image=base64.b64encode(image.getvalue()).decode())
    assert client.wait(name, 1)["status"] == "done"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "prompt must be a text that is not empty"),
        ({"prompt": " "}, "prompt must be a text that is not empty"),
        ({"prompt": "a", "chunks": 45}, "chunks must be a whole number from 1 to 44, not 45"),
        ({"prompt": "a", "steps": 0}, "steps[0]=0 must be at least 1"),
        ({"prompt": "a", "solver": "ddim"}, "solver='ddim' must be one of"),
        ({"prompt": "a", "height": 128, "width": 256}, "is more than the 8192 pixels"),
        ({"prompt": "a", "batch": 2}, "unknown: batch; known here: prompt, chunks"),
        ({"prompt": "a", "image": "!"}, "image must be a file in base64"),
        ({"prompt": "a", "image": "aGVsbG8="}, "not an image"),
        ([], "the body must be a JSON object"),
        ({"prompt": "a \ud800"}, "not valid Unicode"),
        ({"prompt": "a", "negative_prompt": "\udfff"}, "not valid Unicode"),
        ({"prompt": "a", "\ud800": 1}, "unknown: \ud800"),
        ({"prompt": "a", "height": 10**400}, "must be"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(client, body, says):
    status, answer = client.json("POST", "/api/videos", body)
    assert status == 400
    assert says in answer["error"]


def test_another_sites_form_and_name_are_refused(client):
    assert client.send("POST", "/api/videos", {}, **{"Content-Type": "text/plain"})[0] == 400
    assert client.send("GET", "/api/model", Host="evil.example")[0] == 400
    assert client.send("GET", "/api/model", Host="localhost")[0] == 200


def test_nobody_finds_anothers_video(client):
    """Names are long and random, and nothing lists them."""
    names = {client.start(chunks=1) for _ in range(3)}
    assert len(names) == 3
    assert min(map(len, names)) >= 22
    assert client.send("GET", "/api/videos")[0] == 404
    assert client.send("GET", "/api/videos/" + "a" * 22)[0] == 404


def test_twenty_visitors_at_once_are_served_by_the_line(client):
    def visit(number: int) -> str:
        name = client.start(f"a red ball, {number}", chunks=1, seed=number)
        return client.wait(name, 1)["status"]

    with concurrent.futures.ThreadPoolExecutor(20) as visitors:
        assert [*visitors.map(visit, range(20))] == ["done"] * 20


def test_places_follow_the_line_and_a_closed_page_frees_its_own(pipeline):
    """Who does not ask for a while loses the place; who stops frees it at once."""
    with contextlib.ExitStack() as stack:
        client = serve(pipeline, stack, lease_s=3.0, waiting=3)
        gone = client.start(chunks=44)
        second, third = client.start(chunks=44), client.start(chunks=1)
        status, full = client.json("POST", "/api/videos", {"prompt": "a"})
        assert (status, full["error"][:24]) == (503, "too many videos are wait")
        assert client.json("GET", f"/api/videos/{third}")[1]["place"] == 2
        client.send("DELETE", f"/api/videos/{second}")
        assert client.json("GET", f"/api/videos/{third}")[1]["place"] == 1
        assert client.wait(third, 1)["status"] == "done"
        assert client.json("GET", f"/api/videos/{gone}")[1]["status"] == "stopped"


def test_a_chunk_is_sampled_while_the_one_before_it_is_written(pipeline, monkeypatch):
    may_write = threading.Event()
    write = DemoVideo.write

    def wait_and_write(video, record):
        assert may_write.wait(100)
        return write(video, record)

    monkeypatch.setattr(DemoVideo, "write", wait_and_write)
    with Line(pipeline, PATIENT) as line:
        video = line.add(read_asked(pipeline.config, line.options, {"prompt": PROMPT, "chunks": 3}))
        for _ in range(10_000):
            if video.sampled == 2:
                break
            may_write.wait(0.01)
        found = (video.sampled, video.made)
        may_write.set()
        assert found == (2, 0)
        assert line.wait(video, 3, timeout=100.0)
        assert video.status == "done"


def test_a_full_disk_ends_the_video_with_a_message(pipeline, monkeypatch):
    """Chunks after the one that is missing are not written, and the line goes on."""
    write = DemoVideo.write

    def fail_once(video, record):
        if video.asked.request.seed == 1 and record.index == 1:
            raise WriteError("video.mp4 cannot be written: No space left on device")
        return write(video, record)

    monkeypatch.setattr(DemoVideo, "write", fail_once)
    with Line(pipeline, PATIENT) as line:
        body = {"prompt": PROMPT, "chunks": 4}
        full, other = (
            line.add(read_asked(pipeline.config, line.options, body | {"seed": seed}))
            for seed in (1, 2)
        )
        assert line.wait(other, 4, timeout=100.0)
        assert (full.status, full.made) == ("failed", 1)
        assert full.message.endswith("No space left on device")


def test_without_the_token_nothing_is_served(pipeline):
    with contextlib.ExitStack() as stack:
        client = serve(pipeline, stack, token="secret")
        assert client.send("GET", "/api/model")[0] == 401
        assert client.send("GET", "/page.js")[0] == 401
        assert client.send("GET", "/?token=wrong")[0] == 401
        assert client.send("GET", "/?token=secret")[0] == 303
        assert client.send("GET", "/api/model", Cookie="token=secret")[0] == 200
        assert client.send("GET", "/api/model", Authorization="Bearer secret")[0] == 200


def test_the_page_is_served_and_loads_nothing_from_elsewhere(client):
    for name in ("", "page.css", "page.js"):
        status, content = client.send("GET", f"/{name}")
        assert status == 200
        assert not re.search(rb"https?://|//[a-z]+\.", content)


def test_the_python_client_of_the_docs_works(client, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "demo.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace(":7860", f":{client.port}"), {})
    assert live_frames(tmp_path / "star.mp4") == [33, 66, 99]
