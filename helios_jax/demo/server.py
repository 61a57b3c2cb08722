"""HTTP: the page, and the interface that ``docs/demo.md`` describes.

Videos are named by 128 random bits, and nothing lists them. Requests that change something are
JSON, which no other site's form can send, and the host's name is compared with those that the
server was given, so that no other site's name leads here.
"""

import hmac
import http.server
import ipaddress
import json
import logging
import mimetypes
import os
import re
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import Any

import jax

from helios_jax import nano
from helios_jax.demo.asked import FIELDS, check_fields, read_asked, read_count, read_prompt
from helios_jax.demo.export import as_command, as_json
from helios_jax.demo.line import Line
from helios_jax.demo.options import DemoError, UnknownVideoError
from helios_jax.demo.video import DemoVideo
from helios_jax.diffusion.solvers import SOLVERS
from helios_jax.errors import HeliosError
from helios_jax.sampling.prompts import PromptChange
from helios_jax.sampling.request import make_request

PAGE_FILES = ("page.html", "page.css", "page.js")
"""What a browser is given."""

POLICY = "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:"
"""The page loads nothing from anywhere else."""

LONGEST_WAIT_S = 25.0
"""A request for what is not there yet is answered after so long."""

_log = logging.getLogger(__name__)


class DemoServer(http.server.ThreadingHTTPServer):
    """Serves one line of videos, each request in a thread of its own."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, line: Line, host: str, port: int, *, token: str = "", checkpoint: str = ""
    ) -> None:
        """Listen.

        Args:
          line: makes the videos; it is entered by the caller.
          host, port: where to listen; port 0 is any that is free.
          token: that visitors must have; empty for none.
          checkpoint: for the commands that visitors may copy.
        """
        super().__init__((host, port), _Handler)
        self.line = line
        self.token = token
        self.checkpoint = checkpoint
        self.hosts = _known_hosts(host)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host, port = self.server_address[:2]
        name = "127.0.0.1" if host == "0.0.0.0" else str(host)
        query = f"?token={self.token}" if self.token else ""
        return f"http://{name}:{port}/{query}"


class _Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    # pyrefly: ignore[bad-override-mutable-attribute]  it serves no other server
    server: DemoServer
    timeout = 60

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def log_message(self, format: str, *args: Any) -> None:
        _log.debug(format, *args)

    @property
    def line(self) -> Line:
        return self.server.line

    def _serve(self, method: str) -> None:
        """Find what the path means, and answer."""
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        try:
            body = self._read_body(method)
            self._check_host()
            if self._check_token():
                self._route(method, url.path, body)
        except HeliosError as error:
            status = error.status if isinstance(error, DemoError) else HTTPStatus.BAD_REQUEST
            self._send_json({"error": str(error)}, status)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, method: str, path: str, body: Any) -> None:
        """Call what serves a method and a path."""
        for verb, pattern, serve in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and verb == method:
                arguments: list[Any] = list(match.groups())
                if "<" not in pattern and arguments:
                    arguments[0] = self.line.find(arguments[0])
                if verb == "POST":
                    arguments.append(body)
                serve(self, *arguments)
                return
        self._send_json({"error": f"there is no {method} {path}"}, HTTPStatus.NOT_FOUND)

    def show_file(self, name: str = "page.html") -> None:
        """A file of the page."""
        data = (resources.files("helios_jax.demo") / name).read_bytes()
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._send(data, kind + "; charset=utf-8")

    def show_model(self) -> None:
        """What the model is, and what may be asked for."""
        line = self.line
        config = line.pipeline.config
        own = make_request(config)
        shipped = "nano" in self.server.checkpoint or not self.server.checkpoint
        self._send_json(
            {
                "model": repr(line.pipeline),
                "defaults": {name: getattr(own, name) for name in FIELDS},
                "solvers": list(SOLVERS),
                "stages": config.scheduler.stages,
                "chunks": line.options.chunks,
                "frames_per_chunk": own.frames_per_chunk,
                "fps": config.sample.fps,
                "examples": list(nano.EXAMPLES) if shipped else [],
                "device": jax.devices()[0].device_kind,
            }
        )

    def start(self, body: Any) -> None:
        """A new video."""
        line = self.line
        video = line.add(read_asked(line.pipeline.config, line.options, body))
        self._send_json(line.describe(video), HTTPStatus.CREATED)

    def show_video(self, video: DemoVideo) -> None:
        """Where a video stands; with ``made``, once so many chunks are there or it has ended."""
        if "made" in self.query:
            self.line.wait(video, self._number("made"), self._wait())
        described = self.line.describe(video)
        self._send_json(described | {"memory_bytes": _memory()})

    def show_header(self, video: DemoVideo) -> None:
        """The beginning of the mp4, which a player needs before the first chunk."""
        self._wait_for(video, 1)
        self._send(video.header(), "video/mp4")

    def show_chunk(self, video: DemoVideo, number: str) -> None:
        """One chunk as a fragment of mp4; waits until it is made."""
        self._wait_for(video, int(number) + 1)
        self._send(video.chunk(int(number)), "video/mp4")

    def show_whole(self, video: DemoVideo) -> None:
        """The mp4 as far as it is made; with ``follow=1``, on and on until it ends."""
        if self.query.get("follow") != "1":
            self._wait_for(video, 1)
            header = video.header()
            data = header + b"".join(video.chunk(number) for number in range(video.made))
            self._send(data, "video/mp4", "video.mp4")
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        number = 0
        while self.line.wait(video, number + 1) or video.in_line:
            if video.made > number:
                self.wfile.write((b"" if number else video.header()) + video.chunk(number))
                number += 1

    def show_latents(self, video: DemoVideo) -> None:
        """The latents as far as they are made, for ``helios-jax sample --decode``."""
        self._wait_for(video, 1)
        self._send(video.latents(), "application/octet-stream", "latents.safetensors")

    def show_request(self, video: DemoVideo) -> None:
        """The request as JSON."""
        self._send_json(as_json(video))

    def show_command(self, video: DemoVideo) -> None:
        """The command that makes the video again."""
        text = as_command(video, self.server.checkpoint)
        self._send(text.encode(), "text/plain; charset=utf-8")

    def send_prompt(self, video: DemoVideo, body: Any) -> None:
        """Another prompt from the next chunk on."""
        check_fields(body, ("prompt", "blend"))
        self.line.send(video, read_prompt(body), read_count(body, "blend", 0, 8, 0))
        self._send_json(self.line.describe(video))

    def pause(self, video: DemoVideo, body: Any) -> None:
        """Leave the line, to go on later."""
        self.line.pause(video)
        self._send_json(self.line.describe(video))

    def go_on(self, video: DemoVideo, body: Any) -> None:
        """Go on with a paused video."""
        self.line.go_on(video)
        self._send_json(self.line.describe(video))

    def stop(self, video: DemoVideo, body: Any = None) -> None:
        """End a video where it stands."""
        self.line.stop(video)
        self._send_json(self.line.describe(video))

    def branch(self, video: DemoVideo, body: Any) -> None:
        """Another video from a chunk of this one on."""
        check_fields(body, ("chunk", "prompt", "blend", "chunks"))
        limit = self.line.options.chunks
        chunk = read_count(body, "chunk", 1, limit, 1)
        chunks = read_count(body, "chunks", 1, limit, max(video.asked.request.chunks, chunk + 1))
        change = None
        if body.get("prompt"):
            blend = read_count(body, "blend", 0, 8, 0)
            change = PromptChange(chunk, (read_prompt(body),), blend)
        other = self.line.branch(video, chunk, change, chunks)
        self._send_json(self.line.describe(other), HTTPStatus.CREATED)

    def _wait_for(self, video: DemoVideo, made: int) -> None:
        """Wait until so many chunks are there.

        Raises:
          UnknownVideoError: if they are not yet, or never will be.
        """
        if not self.line.wait(video, made, self._wait()):
            soon = "not made yet: ask again" if video.in_line else f"not there: {video.status}"
            raise UnknownVideoError(f"chunk {made - 1} is {soon}")

    def _wait(self) -> float:
        """Seconds to wait at most, by the query's ``wait``."""
        return min(LONGEST_WAIT_S, float(self._number("wait", 20)))

    def _number(self, name: str, default: int = 0) -> int:
        """A number of the query."""
        text = self.query.get(name, str(default))
        if not re.fullmatch(r"\d{1,6}", text):
            raise DemoError(f"{name}={text!r} must be a whole number")
        return int(text)

    def _read_body(self, method: str) -> Any:
        """The JSON of a POST; everything is read, so that the next request begins where it does."""
        length = self.headers.get("Content-Length", "0")
        limit = 2 * self.line.options.upload_bytes
        if not length.isdecimal() or int(length) > limit:
            self.close_connection = True
            raise DemoError(f"the request's body must have at most {limit} bytes")
        data = self.rfile.read(int(length))
        if method != "POST":
            return None
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise DemoError("Content-Type must be application/json")
        try:
            return json.loads(data or b"{}")
        except (ValueError, RecursionError) as error:
            raise DemoError(f"the body must be JSON: {error}") from error

    def _check_host(self) -> None:
        """Refuse a name that is not this server's."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        known = self.server.hosts
        if known and host.lower().strip("[]") not in known:
            raise DemoError(f"the server does not answer to the name {host!r}")

    def _check_token(self) -> bool:
        """Whether the visitor has the token; one who brings it in the address gets a cookie."""
        token = self.server.token
        if not token:
            return True
        given = self.query.get("token", "")
        known = hmac.compare_digest(given.encode(), token.encode())
        if known and self.path.startswith("/?"):
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Set-Cookie", f"token={token}; HttpOnly; SameSite=Strict; Path=/")
            self.send_header("Location", "/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        cookie = re.search(r"(?:^|;\s*)token=([^;]*)", self.headers.get("Cookie", ""))
        offered = [bearer, cookie[1] if cookie else ""]
        if any(hmac.compare_digest(each.encode(), token.encode()) for each in offered):
            return True
        self._send_json(
            {"error": "this server needs its token: open the address that it printed"},
            HTTPStatus.UNAUTHORIZED,
        )
        return False

    def _send_json(self, value: Any, status: int = HTTPStatus.OK) -> None:
        data = json.dumps(value).encode()  # ASCII: a refusal may quote what no encoding has
        self._send(data, "application/json; charset=utf-8", status=status)

    def _send(self, data: bytes, kind: str, name: str = "", status: int = HTTPStatus.OK) -> None:
        """Answer with data; with a name, as a file to keep."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        if name:
            self.send_header("Content-Disposition", f'attachment; filename="{name}"')
        self.end_headers()
        self.wfile.write(data)


_VIDEO = "/api/videos/([A-Za-z0-9_-]{16,64})"

ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/", _Handler.show_file),
    ("GET", f"/(?P<file>{'|'.join(map(re.escape, PAGE_FILES))})", _Handler.show_file),
    ("GET", "/api/model", _Handler.show_model),
    ("POST", "/api/videos", _Handler.start),
    ("GET", _VIDEO, _Handler.show_video),
    ("DELETE", _VIDEO, _Handler.stop),
    ("GET", f"{_VIDEO}/header.mp4", _Handler.show_header),
    ("GET", f"{_VIDEO}/chunks/(\\d{{1,5}})", _Handler.show_chunk),
    ("GET", f"{_VIDEO}/video.mp4", _Handler.show_whole),
    ("GET", f"{_VIDEO}/latents.safetensors", _Handler.show_latents),
    ("GET", f"{_VIDEO}/request.json", _Handler.show_request),
    ("GET", f"{_VIDEO}/command.txt", _Handler.show_command),
    ("POST", f"{_VIDEO}/prompt", _Handler.send_prompt),
    ("POST", f"{_VIDEO}/pause", _Handler.pause),
    ("POST", f"{_VIDEO}/resume", _Handler.go_on),
    ("POST", f"{_VIDEO}/stop", _Handler.stop),
    ("POST", f"{_VIDEO}/branch", _Handler.branch),
]
"""What each method and path means; a video's name becomes the video."""


def _known_hosts(host: str) -> set[str]:
    """Names by which a browser may call the server; empty for any, where it listens everywhere."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return {host.lower()}
    if address.is_unspecified:
        return set()
    return {host, "localhost"} if address.is_loopback else {host}


def _memory() -> int:
    """Bytes of the device in use, or, on a CPU, of this process; 0 where that is not known."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_in_use" in stats:
        return stats["bytes_in_use"]
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # no Linux
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
