"""The page in a real browser: a headless Chromium whose microphone plays a WAV file.

Needs chromium (apt-get install chromium) and playwright (the extra `browser`).
Screenshots go to pytest's temporary folder.
"""

import shutil
import threading
import time

import numpy as np
import pytest
import soundfile

from megatron_speech.audio import SAMPLE_RATE_HZ
from tests.chat.fake_engine import Client, serving, until
from tests.long.talking_engine import ANSWER, QUESTIONS, TalkingEngine, speak

pytestmark = pytest.mark.browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Everything that would reach the loudspeaker also reaches an analyser of ours.
LISTEN = """
const connect = AudioNode.prototype.connect;
window.ears = [];
AudioNode.prototype.connect = function (to, ...rest) {
  if (to instanceof AudioDestinationNode) {
    const ear = new AnalyserNode(this.context, { fftSize: 2048 });
    window.ears.push(ear);
    connect.call(this, ear);
  }
  return connect.call(this, to, ...rest);
};
window.loudness = () => Math.max(0, ...window.ears.map((ear) => {
  const samples = new Float32Array(ear.fftSize);
  ear.getFloatTimeDomainData(samples);
  return Math.sqrt(samples.reduce((sum, s) => sum + s * s, 0) / samples.length);
}));
"""


@pytest.fixture(scope="module")
def microphone(tmp_path_factory):
    """Quiet, a question, quiet, a second one into the answer of the first, quiet."""
    path = tmp_path_factory.mktemp("microphone") / "voice.wav"
    quiet = np.random.default_rng(0).normal(0, 3e-4, SAMPLE_RATE_HZ).astype(np.float32)
    parts = [*[quiet] * 3, speak(QUESTIONS[0]), *[quiet] * 4, speak(QUESTIONS[1]), *[quiet] * 60]
    soundfile.write(path, np.clip(np.concatenate(parts), -1, 1), SAMPLE_RATE_HZ, "PCM_16")
    return path


@pytest.fixture(scope="module")
def browser(microphone):
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.fail("this needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--autoplay-policy=no-user-gesture-required",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}%noloop",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens the page; what it logs as an error, and what it asks of others, fails the test."""
    contexts, complaints = [], []

    def open_page(config, **settings):
        context = browser.new_context(**{"viewport": {"width": 1000, "height": 820}, **settings})
        contexts.append(context)
        context.set_default_timeout(40_000)
        page = context.new_page()
        page.add_init_script(LISTEN)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("request", lambda r: None if config.address in r.url else complaints.append(r.url))
        page.shot = lambda name: page.screenshot(path=tmp_path / f"{name}.png")
        page.goto(config.address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def state(page, name: str) -> None:
    page.wait_for_selector(f"body[data-state={name}]")


def loudness(page, seconds: float) -> float:
    """The loudest moment of the next `seconds`."""
    end, most = time.monotonic() + seconds, 0.0
    while time.monotonic() < end:
        most = max(most, page.evaluate("window.loudness()"))
        page.wait_for_timeout(30)
    return most


def test_hands_free_asks_hears_interrupts_and_asks_again(visit):
    engine = TalkingEngine()
    with serving(engine) as config:
        page = visit(config)
        page.shot("welcome")
        page.click("#start")
        page.click("[data-mode=free]")
        state(page, "recording")
        assert page.wait_for_selector(".user .growing").inner_text() == QUESTIONS[0][:9].strip()
        page.shot("recording")
        state(page, "speaking")
        assert loudness(page, 1.0) > 0.01
        page.shot("speaking")
        # the second question comes out of the microphone while the answer plays
        page.wait_for_selector(".turn.user:nth-of-type(3), .turn.user ~ .turn.user")
        assert loudness(page, 0.3) < 0.5
        page.wait_for_timeout(150)
        assert loudness(page, 0.5) < 1e-3  # silent at once
        page.wait_for_selector(".turn.model ~ .turn.model.playing")
        page.wait_for_selector(".turn.model ~ .turn.model:not(.busy):not(.playing)")
        state(page, "ready")
        page.shot("answered")
        assert page.inner_text(".turn.user .words") == QUESTIONS[0]
        first, second = page.query_selector_all(".turn.model")
        assert second.query_selector(".said").text_content().strip() == ANSWER
        assert "interrupted" in first.inner_text()
        assert "sound after" in second.inner_text()
        second.query_selector(".replay").click()
        assert loudness(page, 1.0) > 0.01
    lengths = [len(sound) / rate for sound, rate in engine.questions]
    spoken = [len(speak(text)) / SAMPLE_RATE_HZ for text in QUESTIONS]
    assert all(abs(a - b) < 1.6 for a, b in zip(lengths, spoken, strict=True))
    heard = [s for s in engine.interruptions if s is not None]
    assert heard
    assert 0 < heard[0] < len(engine.sound) / SAMPLE_RATE_HZ


def test_hold_to_talk_on_a_dark_phone_and_typing(visit):
    engine = TalkingEngine()
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    with serving(engine) as config:
        page = visit(config, **phone)
        page.shot("phone_welcome")
        page.click("#start")
        state(page, "ready")
        page.wait_for_timeout(3_200)
        page.keyboard.down("Space")
        state(page, "recording")
        page.wait_for_timeout(1_500)
        page.shot("phone_recording")
        page.keyboard.up("Space")
        state(page, "speaking")
        page.wait_for_timeout(1_500)
        page.shot("phone_speaking")
        page.click("#stop")
        state(page, "ready")
        page.fill("#text", "And what was in the boat?")
        page.keyboard.press("Enter")
        state(page, "speaking")
        page.wait_for_selector(".turn.model ~ .turn.model:not(.busy):not(.playing)")
        page.shot("phone_answered")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360
    assert engine.questions[1][0] == "And what was in the boat?"
    assert len(engine.interruptions)


def test_the_queue_moves_and_the_end_is_told(visit):
    import asyncio

    async def ahead(config, entered, leave):
        async with Client(config) as one, Client(config) as two:
            await one.hear("ready")
            await two.hear("waiting")
            entered.set()
            await asyncio.to_thread(leave.wait)

    engine = TalkingEngine()
    with serving(engine, max_sessions=1, idle_s=4.0) as config:
        entered, leave = threading.Event(), threading.Event()
        others = threading.Thread(target=lambda: asyncio.run(ahead(config, entered, leave)))
        others.start()
        assert entered.wait(20)
        page = visit(config)
        page.click("#start")
        page.wait_for_selector("#notice:has-text('number')")
        page.shot("queue")
        leave.set()
        others.join()
        state(page, "ready")
        state(page, "ended")
        page.shot("ended")
        assert "still there" in page.inner_text("#notice")
        page.click("#notice button")
        state(page, "ready")
        assert page.query_selector("#notice").is_hidden()


def test_without_a_microphone_one_can_type_and_a_lost_server_is_told(visit):
    engine = TalkingEngine()
    with serving(engine) as config:
        page = visit(config, color_scheme="dark")
        refuse_microphone(page)
        page.click("#start")
        state(page, "ready")
        page.shot("no_microphone")
        page.fill("#text", "Hello?")
        page.keyboard.press("Enter")
        state(page, "speaking")
        assert loudness(page, 1.0) > 0.01
    state(page, "ended")
    page.shot("lost")
    until(lambda: page.is_visible("#notice button"))


def refuse_microphone(page) -> None:
    refuse = "async () => { throw new Error('Refused') }"
    page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {refuse} }}")


def test_a_recording_ends_with_its_mode_and_the_keys_go_on(visit):
    engine = TalkingEngine()
    with serving(engine) as config:
        page = visit(config)
        page.click("#start")
        page.click("[data-mode=free]")
        state(page, "recording")
        page.click("[data-mode=push]")
        state(page, "ready")
        assert not page.query_selector(".turn.user")
        page.keyboard.down("Space")
        state(page, "recording")
        page.click("[data-mode=free]")
        state(page, "ready")
        page.keyboard.up("Space")
        page.focus("[data-mode=free]")
        page.keyboard.press("ArrowLeft")
        assert page.get_attribute("[data-mode=push]", "aria-checked") == "true"
        assert page.evaluate("document.activeElement.dataset.mode") == "push"
        page.focus("#talk")
        page.keyboard.down("Enter")
        state(page, "recording")
        page.wait_for_timeout(600)
        page.keyboard.up("Enter")
        page.wait_for_selector(".turn.model")
    assert len(engine.questions) == 1


def test_a_microphone_that_is_unplugged_is_said_and_one_can_type(visit):
    with serving(TalkingEngine()) as config:
        page = visit(config)
        page.evaluate(
            "() => { const lend = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
            "navigator.mediaDevices.getUserMedia = async (w) => (window.lent = await lend(w)); }"
        )
        page.click("#start")
        state(page, "ready")
        page.keyboard.down("Space")
        state(page, "recording")
        page.evaluate("() => window.lent.getTracks()[0].dispatchEvent(new Event('ended'))")
        state(page, "ready")
        page.keyboard.up("Space")
        assert "Microphone lost" in page.inner_text("#notice")
        assert page.is_disabled("#talk")
        page.shot("microphone_lost")
        page.fill("#text", "Hello?")
        page.keyboard.press("Enter")
        state(page, "speaking")


def test_the_notice_of_the_queue_goes_without_a_microphone_too(visit):
    import asyncio

    async def ahead(config, entered, leave):
        async with Client(config) as one:
            await one.hear("ready")
            entered.set()
            await asyncio.to_thread(leave.wait)

    with serving(TalkingEngine(), max_sessions=1) as config:
        entered, leave = threading.Event(), threading.Event()
        other = threading.Thread(target=lambda: asyncio.run(ahead(config, entered, leave)))
        other.start()
        assert entered.wait(20)
        page = visit(config)
        refuse_microphone(page)
        page.click("#start")
        page.wait_for_selector("#notice:has-text('number')")
        leave.set()
        other.join()
        state(page, "ready")
        assert "number" not in page.inner_text("#notice")
        assert "No microphone" in page.inner_text("#notice")


def test_sound_that_is_held_back_is_offered(visit):
    with serving(TalkingEngine()) as config:
        page = visit(config)
        page.click("#start")
        state(page, "ready")
        page.evaluate(
            "() => { window.held = true;"
            "Object.defineProperty(AudioContext.prototype, 'state',"
            "  { get: () => (window.held ? 'suspended' : 'running') });"
            "const waiting = [];"
            "AudioContext.prototype.resume = () => window.held"
            "  ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve();"
            "document.querySelector('#notice button').addEventListener('click', () => {"
            "  window.held = false; waiting.forEach((resolve) => resolve()); }, true); }"
        )
        page.fill("#text", "Hello?")
        page.keyboard.press("Enter")
        page.wait_for_selector("#notice button:has-text('Press to hear')")
        page.shot("held_back")
        page.click("#notice button")
        page.wait_for_selector("#notice", state="hidden")


def test_a_message_that_is_too_large_is_told(visit):
    with serving(TalkingEngine(), message_bytes=1024) as config:
        page = visit(config)
        refuse_microphone(page)
        page.click("#start")
        state(page, "ready")
        page.fill("#text", "a" * 2_000)
        page.keyboard.press("Enter")
        state(page, "ended")
        assert "larger than it reads" in page.inner_text("#notice")


def test_old_answers_give_their_sound_back(visit):
    with serving(TalkingEngine()) as config:
        page = visit(config)
        left = page.evaluate(
            """async () => {
              const { Answer } = await import("/turns.js");
              for (const n of [0, 1]) {
                const answer = new Answer(performance.now());
                answer.beginSound(8000);
                answer.addSound(new ArrayBuffer(2 * 8000 * 700));
                answer.playback.stop();
                answer.finish("stop", null);
                window[`answer${n}`] = answer;
              }
              const { answer0, answer1 } = window;
              return [answer0.pieces.length, answer0.playback, answer1.playback.pieces.length,
                answer1.pieces.length];
            }"""
        )
    assert left == [0, None, 0, 1]
