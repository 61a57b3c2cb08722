"""The judge, against a small server on this machine."""

import base64
import contextlib
import http.server
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.judge import (
    KEY,
    QUESTION,
    HttpJudge,
    JudgeRefusedError,
    estimate_cost,
    read_question,
)
from helios_jax.evaluation.bench.naturalness import judged, judged_drift
from helios_jax.evaluation.bench.video import FrameVideo


class Server(http.server.ThreadingHTTPServer):
    """Gives its ``replies``, (status, content, headers), in turn, and keeps what it was sent."""

    def __init__(self, replies):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = list(replies)
        self.bodies = []
        self.headers = []
        self.times = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append(json.loads(body))
        self.server.headers.append(dict(self.headers))
        self.server.times.append(time.monotonic())
        status, content, *rest = self.server.replies.pop(0)
        self.send_response(status)
        for name, value in (rest[0] if rest else {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write((content if isinstance(content, str) else json.dumps(content)).encode())

    def do_GET(self):
        self.server.bodies.append("a redirected request")
        self.send_error(404)

    def log_message(self, *args):
        pass


def answer(text):
    return (200, {"choices": [{"message": {"content": text}}]})


@contextlib.contextmanager
def serve(*replies):
    with Server(replies) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def clip(frames=40):
    return np.random.default_rng(0).integers(0, 255, (frames, 24, 512, 3), np.uint8)


def test_a_question_shows_the_frames_and_then_asks():
    with serve(answer("4")) as server:
        found = judged(FrameVideo(clip()), HttpJudge(server.url, "seer"))
    assert found == {"naturalness_score": 0.75, "raw_score": "4"}
    (body,) = server.bodies
    assert (body["model"], body["temperature"]) == ("seer", 0)
    *images, text = body["messages"][0]["content"]
    assert len(images) == 16
    assert "You see 16 frames" in text["text"]
    head, data = images[0]["image_url"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (512, 24)


def test_an_answer_is_kept_and_never_asked_for_twice(tmp_path):
    with serve(answer("2"), answer("5")) as server:
        video = FrameVideo(clip())
        first = judged(video, HttpJudge(server.url, "seer", cache=tmp_path))
        again = judged(video, HttpJudge(server.url, "seer", cache=tmp_path))
        other = judged(video, HttpJudge(server.url, "oracle", cache=tmp_path))
    assert first == again
    assert other["raw_score"] == "5"
    assert len(server.bodies) == 2


def test_drift_asks_about_both_ends():
    with serve(answer("4"), answer("2")) as server:
        found = judged_drift(FrameVideo(clip()), HttpJudge(server.url, "seer"))
    assert (found["drift_naturalness_score"], found["signed_drift"]) == (0.5, -0.5)


@pytest.mark.parametrize(
    "failure",
    [
        (503, "busy"),
        (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}),
        (200, "no json"),
        (200, {"choices": []}),
        answer("I cannot tell"),
    ],
)
def test_a_passing_failure_is_tried_again(failure):
    with serve(failure, answer("3")) as server:
        assert HttpJudge(server.url, "seer", pause=0)(list(clip(1))) == "3"
    assert len(server.bodies) == 2


def test_the_next_try_waits_as_long_as_the_server_asks():
    with serve((429, "", {"Retry-After": "1"}), answer("3")) as server:
        HttpJudge(server.url, "seer", pause=0)(list(clip(1)))
    first, second = server.times
    assert second - first >= 1


def test_a_server_that_keeps_failing_is_named_with_its_reason():
    with (
        serve(*[(503, "busy")] * 3) as server,
        pytest.raises(BenchError, match=r"status 503: busy \(3 tries\)"),
    ):
        HttpJudge(server.url, "seer", retries=2, pause=0)(list(clip(1)))


def test_a_refusal_is_final_and_tells_where_the_key_is_read():
    with (
        serve((401, {"error": {"message": "no key"}})) as server,
        pytest.raises(JudgeRefusedError, match=f"no key.*{KEY}"),
    ):
        HttpJudge(server.url, "seer", pause=0)(list(clip(1)))
    assert len(server.bodies) == 1


def test_the_key_goes_to_the_server_that_was_named(monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    with serve(answer("1")) as server:
        HttpJudge(server.url, "seer")(list(clip(1)))
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_a_redirect_is_not_followed():
    with serve(answer("5")) as other, serve((302, "", {"Location": other.url})) as server:
        with pytest.raises(JudgeRefusedError, match="status 302"):
            HttpJudge(server.url, "seer", pause=0)(list(clip(1)))
        assert not other.bodies


def test_no_server_is_an_error_without_a_traceback_of_sockets():
    with serve() as server:
        url = server.url
    with pytest.raises(BenchError, match="refused"):
        HttpJudge(url, "seer", retries=1, pause=0)(list(clip(1)))


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", "http://"])
def test_what_is_no_server_is_refused_before_anything_is_sent(url):
    with pytest.raises(BenchError, match="must be a server's address"):
        HttpJudge(url, "seer")


def test_a_judge_needs_a_model():
    with pytest.raises(BenchError, match="--judge_model"):
        HttpJudge("http://127.0.0.1:1/v1", "")


def test_another_question_is_another_judge(tmp_path):
    path = tmp_path / "question.txt"
    path.write_text("Real or not, of {num_frames}?")
    question = read_question(path)
    url = "http://127.0.0.1:1/v1"
    assert HttpJudge(url, "seer").name == "seer"
    assert HttpJudge(url, "seer", question=question).name.startswith("seer (question ")


def test_the_cost_counts_calls_images_and_tokens():
    cost = estimate_cost([1440, 81], "naturalness")
    assert (cost.calls, cost.images) == (2, 32)
    assert cost.tokens == 32 * 255 + 2 * -(-len(QUESTION) // 4)
    drift = estimate_cost([81], "drifting_naturalness")  # windows of 12 frames, as published
    assert (drift.calls, drift.images) == (2, 24)
