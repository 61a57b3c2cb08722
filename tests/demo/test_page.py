"""The live page in headless Chromium, with helios-nano: a video plays, answers, and branches.

It needs the extra `browser`, and a Chromium on the machine.
"""

import shutil
import threading

import pytest

from helios_jax import HeliosPipeline
from helios_jax.commands.demo import warm_up
from helios_jax.demo.line import Line
from helios_jax.demo.options import DemoOptions
from helios_jax.demo.server import DemoServer

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
MINUTE = 60_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def server():
    pipeline = HeliosPipeline.from_checkpoint("nano")
    warm_up(pipeline)
    with (
        Line(pipeline, DemoOptions(lease_s=5.0)) as line,
        DemoServer(line, "127.0.0.1", 0) as server,
    ):
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as engine:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        yield engine.chromium.launch(executable_path=CHROMIUM, args=arguments)


@pytest.fixture(params=[("light", 1280, 860), ("dark", 390, 844)], ids=["wide", "phone"])
def page(request, browser, server):
    scheme, width, height = request.param
    size = {"width": width, "height": height}
    # What is asked of a page here is evaluated in it, which its policy forbids.
    context = browser.new_context(color_scheme=scheme, viewport=size, bypass_csp=True)
    page = context.new_page()
    errors = []

    def note(error):
        errors.append(error)

    page.on("pageerror", note)
    page.goto(server.url)
    page.wait_for_selector("#examples button")
    yield page
    context.close()
    assert not errors


def make(page, chunks: int) -> None:
    page.fill("#ask input[name=chunks]", str(chunks))
    page.click("#make")


def test_a_video_plays_answers_and_branches(page):
    make(page, 4)
    page.wait_for_function("player.currentTime > 0.2", timeout=MINUTE)
    page.fill("#say input[name=prompt]", "A huge blue circle bounces up and down.")
    page.click("#say-button")
    page.wait_for_function("video.status === 'done'", timeout=MINUTE)
    assert page.evaluate("video.prompts.length") == 2
    assert page.evaluate("player.buffered.end(0)") == pytest.approx(4 * 33 / 24, abs=0.1)
    first = page.evaluate("video.id")
    page.click("#chunks li:nth-child(2) button")
    page.fill("#say input[name=prompt]", "A small yellow ring spins.")
    page.click("#say-button")
    page.wait_for_function(f"video.id !== '{first}' && video.status === 'done'", timeout=MINUTE)
    assert page.evaluate("video.prompts.at(-1).chunk") == 2
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_closed_tab_frees_its_place(page, server):
    make(page, 44)
    page.wait_for_function("video !== null && video.made > 0", timeout=MINUTE)
    name = page.evaluate("video.id")
    page.goto("about:blank")
    found = server.line.find(name)
    for _ in range(100):
        if found.status == "stopped":
            break
        threading.Event().wait(0.1)
    assert found.status == "stopped"
