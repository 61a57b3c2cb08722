"""A judge behind any server that speaks OpenAI's chat protocol: the one whose URL the user names.

Nothing is sent anywhere else: redirects are refused, and the key is read from a variable of our
own, so that no key for one server reaches another. Answers are kept on disk, by frames, model and
question, so that an interrupted run asks nothing twice.
"""

import base64
import dataclasses
import hashlib
import io
import json
import math
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from helios_jax.evaluation.bench.errors import BenchError
from helios_jax.evaluation.bench.files import write_json
from helios_jax.evaluation.bench.naturalness import NUM_FRAMES, value_of
from helios_jax.evaluation.bench.windows import strided_frames, window_length

KEY = "HELIOS_JUDGE_KEY"
"""The environment variable that holds the server's key, where it wants one."""
NUMBER = "{num_frames}"
"""What stands in a question for the number of frames that are shown."""
QUESTION = f"""You see {NUMBER} frames of one video, in order. Was it filmed, or made by a model?

Cuts between scenes are no sign of either. Look at each frame by itself and at what is near it:
surfaces and fine texture, outlines, shadows and reflections that fit the light, feet and objects
that touch the ground, hands and faces with the right parts, shapes that melt or show through.

Answer with one whole number and nothing else:
1 surely made by a model, 2 probably made, 3 cannot tell, 4 probably filmed, 5 surely filmed."""
"""Our question. Answers to another question, or of another model, are not comparable."""

RETRIES = 5
LONGEST_PAUSE = 60.0
"""Seconds to wait at most before the next try, whatever the server asks for."""
TIMEOUT = 180.0
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""Statuses that may be gone at the next try."""
TOKENS_PER_IMAGE = 255
"""Of a frame of 512 pixels, as OpenAI counts; other servers count differently."""
LETTERS_PER_TOKEN = 4


class JudgeRefusedError(BenchError):
    """The server refuses, and will refuse the next request too: the run ends."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run will ask of a judge, at most: answers that are kept are not asked for again."""

    calls: int
    images: int
    tokens: int

    def __str__(self) -> str:
        thousands = f"{self.tokens / 1000:.0f} thousand tokens"
        return f"{self.calls} calls with {self.images} images, about {thousands}"


class HttpJudge:
    """Shows frames to a model behind a server, and returns its answer.

    Attributes:
      name: the model and its question, for tables: values of two names are not comparable.
      calls: requests sent so far, failed ones too.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        question: str = QUESTION,
        cache: str | os.PathLike | None = None,
        retries: int = RETRIES,
        pause: int | float = 1,
    ):
        """Check the address; nothing is sent.

        Args:
          url: of the server, as clients name it: ``http://127.0.0.1:8000/v1``.
          model: as the server names it.
          question: with :data:`NUMBER` where the number of frames belongs.
          cache: folder for answers; None keeps none.
          retries: how often a request is repeated that fails for a passing reason.
          pause: seconds before the first repetition; each further pause is twice as long.

        Raises:
          BenchError: if the URL is not one of a server, or the model has no name.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BenchError(
                f"--judge={url} must be a server's address, as http://127.0.0.1:8000/v1"
            )
        if not model:
            raise BenchError("--judge names a server; name its model, too: --judge_model=NAME")
        self.url = url.rstrip("/")
        if not self.url.endswith("/chat/completions"):
            self.url += "/chat/completions"
        self.model = model
        self.question = question
        self.cache = Path(cache) if cache is not None else None
        self.calls = 0
        self._retries = retries
        self._pause = pause
        self._opener = urllib.request.build_opener(_NoRedirects)

    @property
    def name(self) -> str:
        if self.question == QUESTION:
            return self.model
        digest = hashlib.sha256(self.question.encode()).hexdigest()[:8]
        return f"{self.model} (question {digest})"

    def __call__(self, frames: Sequence[UInt8[np.ndarray, "Y X 3"]]) -> str:
        """The answer about frames, from the cache where it is there.

        Raises:
          BenchError: if the server refuses, or keeps failing, or gives no number.
        """
        path = self._cache_path(frames)
        if path is not None and path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["answer"]
        answer = self._ask(self._body(frames))
        if path is not None:
            write_json(path, {"answer": answer, "model": self.model, "frames": len(frames)})
        return answer

    def _ask(self, body: bytes) -> str:
        """Send a question until there is a number in the answer."""
        reason = ""
        wait = 0.0
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(min(max(self._pause * 2 ** (attempt - 1), wait), LONGEST_PAUSE))
            try:
                answer = self._send(body)
                value_of(answer)
                return answer
            except _PassingError as error:
                reason = str(error)
                wait = error.wait
            except JudgeRefusedError:
                raise
            except BenchError as error:
                reason = str(error)
                wait = 0.0
        raise BenchError(f"{self.url}: {reason} ({self._retries + 1} tries)")

    def _send(self, body: bytes) -> str:
        """One request."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, body, headers, method="POST")
        self.calls += 1
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                content = json.load(response)
            return str(content["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            said = _message(error)
            if error.code in PASSING:
                raise _PassingError(
                    f"status {error.code}: {said}", _seconds(error.headers)
                ) from error
            hint = f"; its key is read from {KEY}" if error.code in (401, 403) else ""
            raise JudgeRefusedError(f"{self.url}: status {error.code}: {said}{hint}") from error
        except (OSError, ValueError) as error:  # no connection, timeout, or no JSON
            raise _PassingError(str(getattr(error, "reason", error))) from error
        except (KeyError, IndexError, TypeError) as error:
            raise BenchError("the answer does not have the form of a chat completion") from error

    def _body(self, frames: Sequence[UInt8[np.ndarray, "Y X 3"]]) -> bytes:
        parts: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in frames
        ]
        parts.append({"type": "text", "text": self.question.replace(NUMBER, str(len(frames)))})
        messages = [{"role": "user", "content": parts}]
        return json.dumps({"model": self.model, "temperature": 0, "messages": messages}).encode()

    def _cache_path(self, frames: Sequence[UInt8[np.ndarray, "Y X 3"]]) -> Path | None:
        if self.cache is None:
            return None
        digest = hashlib.sha256()
        for text in (self.url, self.model, self.question):
            digest.update(f"{text}\0".encode())
        for frame in frames:
            digest.update(str(frame.shape).encode())
            digest.update(frame.tobytes())
        return self.cache / f"{digest.hexdigest()}.json"


def read_question(path: str | os.PathLike) -> str:
    """The question in a text file.

    Raises:
      BenchError: if there is none.
    """
    try:
        question = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise BenchError(f"--judge_prompt={path}: {reason}") from error
    if not question:
        raise BenchError(f"--judge_prompt={path} is empty")
    return question


def estimate_cost(lengths: Sequence[int], metric: str, question: str = QUESTION) -> Cost:
    """What a metric asks about videos of so many frames."""
    images = 0
    calls = 0
    for length in lengths:
        if metric == "naturalness":
            shown = [len(strided_frames(0, length, NUM_FRAMES))]
        else:
            shown = [len(strided_frames(0, window_length(length), NUM_FRAMES))] * 2
        calls += len(shown)
        images += sum(shown)
    text = math.ceil(len(question) / LETTERS_PER_TOKEN)
    return Cost(calls, images, images * TOKENS_PER_IMAGE + calls * text)


class _PassingError(Exception):
    """A request that may succeed when it is repeated, after ``wait`` seconds."""

    def __init__(self, message: str, wait: float = 0.0):
        super().__init__(message)
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take frames and key to a server that nobody named."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        return None


def _data_url(frame: UInt8[np.ndarray, "Y X 3"]) -> str:
    """A frame as JPEG of quality 95, OpenCV's default and so the original's."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=95)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _message(error: urllib.error.HTTPError) -> str:
    """What the server says, short."""
    text = error.read(2000).decode(errors="replace")
    try:
        content = json.loads(text)["error"]
        text = content["message"] if isinstance(content, dict) else str(content)
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:200] or error.reason


def _seconds(headers: Message) -> float:
    """How long the server asks to wait."""
    try:
        return max(float(headers.get("Retry-After", 0)), 0.0)
    except ValueError:  # a date
        return 0.0
