"""The page at `/` in a real browser: every user's way through it, by mouse, keyboard and thumb."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("prometheus_client")
playwright = pytest.importorskip("playwright.sync_api")

from live import chat, live, until

from halu.service.keys import new_key
from halu.service.page import STATIC

ROOT = Path(__file__).resolve().parent.parent
DESCRIBE = "Please describe this image in detail."
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
PATIENCE_MS = 60_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        yield started.chromium.launch(executable_path=CHROMIUM, args=options)


class Visit:
    """A visit to the page, and everything that went wrong in it."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.wrong: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", lambda m: self.wrong.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._only_here(request.url, url))
        self.page.goto(url)

    def _only_here(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "data:", "blob:")):
            self.wrong.append(f"{asked} was fetched")

    def ready(self) -> "Visit":
        self.page.wait_for_selector("#send:enabled")
        self.page.wait_for_selector("#shown:visible")
        return self

    def ask(self, question: str = DESCRIBE) -> list[str]:
        """The answers, when all have ended."""
        self.page.fill("#question", question)
        self.page.click("#send")
        return self.answers()

    def answers(self) -> list[str]:
        count = self.page.locator(".arm").count()
        self.page.wait_for_selector(f".reply[aria-busy=false] >> nth={count - 1}")
        return [box.inner_text() for box in self.page.locator(".words").all()]

    def said(self) -> str:
        """The sentence about the word under the lens."""
        text: str = self.page.inner_text("#sentence")
        return text


@pytest.fixture
def visit(browser: Any, served: Any) -> Iterator[Visit]:
    made = Visit(browser, served.url).ready()
    yield made
    made.page.context.close()
    assert made.wrong == []


def example(number: int = 0) -> tuple[Any, Image.Image]:
    listed = json.loads((STATIC / "examples" / "examples.json").read_text(encoding="utf-8"))
    return listed[number], _opened(listed[number]["file"])


def _opened(name: str) -> Image.Image:
    with Image.open(STATIC / "examples" / name) as file:
        return file.convert("RGB")


def alone(served: Any, picture: Image.Image, question: str, **halu: Any) -> str:
    body = chat(picture, question, max_tokens=128, seed=0, halu=halu)
    text: str = served.post("/v1/chat/completions", **body).json()["choices"][0]["message"][
        "content"
    ]
    return text


def test_two_strategies_answer_side_by_side(visit: Visit, served: Any) -> None:
    said = visit.ask()
    _, picture = example()
    assert said == [alone(served, picture, DESCRIBE, strategy=name) for name in ("greedy", "vcd")]
    left, right = (box.bounding_box() for box in visit.page.locator(".reply").all())
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    assert "vcd answers: " in visit.page.inner_text("#status")


def test_parameters_and_combinations_reach_the_server(visit: Visit, served: Any) -> None:
    page = visit.page
    page.locator(".arm").nth(0).get_by_role("button", name="Remove").click()
    page.click("summary:has-text('Parameters')")
    page.fill(".parameters input >> nth=0", "0.25")
    page.get_by_role("button", name="Combine with another").click()
    question = example()[0]["questions"][0]
    with page.expect_request("**/v1/chat/completions") as sent:
        (said,) = visit.ask(question)
    first = page.inner_text(".parameters label >> nth=0")
    own = json.loads(sent.value.post_data)["halu"]
    assert (own["strategy"], own["params"]) == ("vcd+vhr", {f"vcd.{first}": 0.25})
    assert said == alone(
        served, example()[1], question, strategy="vcd+vhr", params={f"vcd.{first}": 0.25}
    )


def test_untouched_forms_send_nothing(visit: Visit, served: Any) -> None:
    """For every strategy there is; and what is set is read by its type."""
    schemas = [one["params"] for one in served.get("/v1/strategies").json()["data"]]
    sent = visit.page.evaluate(
        """async (schemas) => {
          const {parameterForm} = await import("/static/parameters.js");
          const forms = schemas.map(parameterForm);
          const set = parameterForm({properties: {
            n: {type: "integer", default: 1}, on: {type: "boolean", default: true},
            list: {anyOf: [{type: "array"}, {type: "null"}], default: null},
            text: {type: "string", default: "1"}, path: {type: "string", operator: true}}});
          const [n, on, list, text] = set.element.querySelectorAll("input, select");
          n.value = "3"; on.value = "false"; list.value = "[1, 2]"; text.value = "7";
          return [forms.map((form) => form.values()), set.values()];
        }""",
        schemas,
    )
    assert sent == [[{}] * len(schemas), {"n": 3, "on": False, "list": [1, 2], "text": "7"}]


def test_pointing_at_a_word_shows_where_it_looked(visit: Visit) -> None:
    page = visit.page
    visit.ask()
    assert page.locator("canvas.heat:visible").count() == 0
    word = page.locator(".words button").nth(4)
    word.hover()
    assert re.match(rf"{word.inner_text()} \(greedy, risk [\d.]+ %\): \d+ % of ", visit.said())
    assert "of the attention lay on the picture, most at the" in visit.said()
    assert page.locator("#picture canvas.heat").is_visible()
    assert _heat(page).std() > 5
    rows = page.locator(".considered li")
    assert rows.count() == 5
    assert page.inner_text(".considered .said span") in word.inner_text()
    before = _heat(page)
    other = page.locator(".words button").nth(9)
    other.hover()
    assert np.abs(_heat(page) - before).max() > 20
    assert page.locator(".words button[aria-pressed=true]").all_inner_texts() == [
        other.inner_text()
    ]
    page.keyboard.press("Escape")
    assert page.locator("canvas.heat:visible").count() == 0


def _heat(page: Any) -> np.ndarray:
    """The red of every 16th pixel of the heat map."""
    pixels = page.evaluate(
        """() => { const c = document.querySelector("#picture canvas.heat");
        return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]
          .filter((_, i) => i % 64 === 0); }"""
    )
    return np.array(pixels, float)


def test_no_word_moves_while_it_is_pointed_at(visit: Visit) -> None:
    visit.ask()
    words = visit.page.locator(".words button").all()
    visit.page.evaluate("scrollTo(0, 0)")
    places = [word.bounding_box() for word in words]
    for word in words[:12]:
        word.hover()
    visit.page.evaluate("scrollTo(0, 0)")
    assert [word.bounding_box() for word in words] == places


def test_colours_follow_the_chosen_measure(visit: Visit) -> None:
    visit.ask()
    levels = """() => [...document.querySelectorAll(".words button")]
      .map((word) => Number(word.style.getPropertyValue("--level")))"""
    seen = {}
    for measure in ("risk", "unsure", "away", "moved", "found"):
        visit.page.select_option("#measure", measure)
        seen[measure] = np.array(visit.page.evaluate(levels))
        assert ((seen[measure] >= 0) & (seen[measure] <= 1)).all()
    np.testing.assert_allclose(seen["risk"], seen["unsure"] * seen["away"], atol=2e-3)
    greedy = visit.page.locator(".reply >> nth=0 >> .words button").count()
    assert (seen["moved"][:greedy] == 0).all()
    assert seen["moved"][greedy:].max() > 0.1
    assert (seen["found"] == 0).all()


def test_a_strategy_without_evidence_answers_all_the_same(visit: Visit, served: Any) -> None:
    page = visit.page
    page.locator(".arm").nth(0).get_by_role("button", name="Remove").click()
    page.select_option(".arm select >> nth=0", "beam")
    (said,) = visit.ask()
    assert said == alone(served, example()[1], DESCRIBE, strategy="beam")
    assert "0 tokens" not in page.inner_text(".reply")
    assert "may take words back" in page.inner_text(".reply")
    word = page.locator(".words button").nth(2)
    word.hover()
    assert visit.said() == f"{word.inner_text()} (beam): nothing is known of how it was said."
    assert page.locator("canvas.heat:visible").count() == 0
    assert all("status of 400" in line for line in visit.wrong)
    visit.wrong.clear()


def test_what_detectors_find_is_marked(visit: Visit) -> None:
    page = visit.page
    page.click("summary:has-text('Detectors')")
    page.get_by_role("checkbox", name="clip").check()
    visit.ask()
    marked = page.locator(".words button.doubted")
    assert marked.count() > 0
    marked.first.hover()
    assert "clip, " in page.inner_text("#details .finding >> nth=0")
    page.select_option("#measure", "found")
    levels = "all => all.map((word) => Number(word.style.getPropertyValue('--level')))"
    assert min(marked.evaluate_all(levels)) >= 0.5
    assert max(page.locator(".words button:not(.doubted)").evaluate_all(levels)) == 0


def test_a_finding_marks_its_word(visit: Visit) -> None:
    """Offsets count code points: an emoji is one. Punctuation stands apart; line ends are kept."""
    texts = ["Two", " 🐕🐕", ",", "\n", "a", " mot", "or", "cycle", ".", " "]
    words = visit.page.evaluate(
        """async (texts) => {
          const {Transcript} = await import("/static/transcript.js");
          const answer = new Transcript();
          let start = 0;
          for (const text of texts) {
            const stop = start + Array.from(text).length;
            const evidence = {entropy: stop, shift: 0, rank: 0, mass: {image: 0.5}};
            answer.hear({choices: [{delta: {content: text}}],
              halu: {tokens: [{text, start, stop, logprob: -1, evidence}]}});
            start = stop;
          }
          answer.hear({choices: [], halu: {findings: [{start: 10, stop: 20, score: 0.9}]}});
          return answer.words().map((word) =>
            [word.lead, word.text, word.tokens.length, word.findings.length]);
        }""",
        texts,
    )
    assert words == [
        ["", "Two", 1, 0],
        [" ", "🐕🐕", 1, 0],
        ["", ",", 1, 0],
        ["\n", "a", 1, 0],
        [" ", "motorcycle", 3, 1],
        ["", ".", 1, 0],
    ]


def test_everything_works_by_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    visited = _tab_to(page, "question")
    assert "file" in visited
    page.keyboard.press("Control+A")
    page.keyboard.type(example()[0]["questions"][0])
    page.keyboard.press("Enter")
    said = visit.answers()
    assert all(answer.split()[0].strip(",.") in ("Yes", "No") for answer in said)
    _tab_to(page, "measure")
    page.keyboard.press("Tab")
    assert visit.said().startswith(said[0].split()[0].strip(",."))
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.textContent")
    assert visit.said().startswith(second)
    page.keyboard.press("End")
    assert visit.said().startswith(".")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Copy as curl"
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#status")).to_have_text("Copied as curl.")


def _tab_to(page: Any, wanted: str) -> list[str]:
    """Tabs to an element; every stop on the way shows that it has the focus, and has a name."""
    stops = []
    for _ in range(60):
        stops.append(page.evaluate("document.activeElement.id"))
        if stops[-1] == wanted:
            return stops
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style not in ("none", "")
        name = "document.activeElement.{0}"
        named = [
            name.format(part) for part in ("innerText", "ariaLabel", "labels?.length", "title")
        ]
        images = "document.activeElement.querySelector('img')?.alt"
        assert page.evaluate(f"[{', '.join(named)}, {images}].some(Boolean)"), stops
        page.keyboard.press("Tab")
    raise AssertionError(f"no way to {wanted}: {stops}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser: Any, served: Any, scheme: str) -> None:
    phone = Visit(browser, served.url, color_scheme=scheme, has_touch=True)
    page = phone.page
    page.set_viewport_size({"width": 390, "height": 844})
    phone.ready().ask()
    page.click("summary:has-text('Detectors')")
    word = page.locator(".words button").nth(8)
    word.tap()
    assert word.inner_text() in phone.said()
    lens = page.locator("#lens").bounding_box()
    assert lens["y"] >= 0
    assert lens["y"] + lens["height"] <= 845
    assert page.locator("#lens canvas.heat").is_visible()
    assert word.bounding_box()["y"] + 20 < lens["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Close").tap()
    assert page.locator("#lens.open").count() == 0
    assert phone.said().startswith("Point at a word")
    last = page.locator(".words button").last
    last.evaluate("word => scrollBy(0, word.getBoundingClientRect().bottom - innerHeight + 4)")
    last.tap()
    below = "() => document.querySelector('#lens').getBoundingClientRect().top"
    assert last.evaluate("word => word.getBoundingClientRect().bottom") <= page.evaluate(below)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")
    assert phone.wrong == []
    page.context.close()


def _copied(visit: Visit, label: str) -> str:
    visit.page.locator(".reply >> nth=1").get_by_role("button", name=f"Copy as {label}").click()
    playwright.expect(visit.page.locator("#status")).to_have_text(f"Copied as {label}.")
    text: str = visit.page.evaluate("navigator.clipboard.readText()")
    return text


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_the_copied_curl_gives_the_same_answer(visit: Visit, tmp_path: Path) -> None:
    """With an example, which the server has, and with an own file of an awkward name."""
    said = visit.ask()[1]
    assert _run(["bash", "-c", _copied(visit, "curl")], tmp_path) == said
    own = tmp_path / "it's my $picture.png"
    example(2)[1].save(own)
    visit.page.set_input_files("#file", own)
    playwright.expect(visit.page.locator("#caption")).to_have_text(own.name)
    said = visit.ask('Is there a "dog" for $5 or `date` in C:\\new?')[1]
    assert _run(["bash", "-c", _copied(visit, "curl")], tmp_path) == said


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text: str = json.loads(done.stdout)["choices"][0]["message"]["content"]
    return text


@pytest.mark.slow
def test_the_copied_python_gives_the_same_answer(visit: Visit, tmp_path: Path) -> None:
    pytest.importorskip("openai")
    said = visit.ask()[1]
    code = _copied(visit, "Python")
    assert len(code.splitlines()) < 30
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == said, done.stderr


def test_dropped_and_pasted_pictures(visit: Visit) -> None:
    give = """async ([kind, name]) => {
      const data = new DataTransfer();
      const picture = await (await fetch(document.querySelector("#examples img").src)).blob();
      data.items.add(new File([picture], name, {type: "image/webp"}));
      const event = kind === "paste"
        ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
        : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
      document.body.dispatchEvent(event);
    }"""
    for kind in ("drop", "paste"):
        visit.page.evaluate(give, [kind, f"{kind}.webp"])
        playwright.expect(visit.page.locator("#caption")).to_have_text(f"{kind}.webp")
    assert all(visit.ask())


@pytest.mark.parametrize("size", [(60, 400), (900, 100), (2400, 1800)])
def test_pictures_of_any_shape_keep_it(visit: Visit, tmp_path: Path, size: tuple[int, int]) -> None:
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    picture.save(tmp_path / "shape.jpg")
    visit.page.set_input_files("#file", tmp_path / "shape.jpg")
    playwright.expect(visit.page.locator("#caption")).to_have_text("shape.jpg")
    visit.ask("What is this?")
    visit.page.locator(".words button").first.hover()
    for frame in ("#picture", "#lens"):
        image = visit.page.locator(f"{frame} .frame img").bounding_box()
        assert image["width"] / image["height"] == pytest.approx(size[0] / size[1], rel=0.05)
        assert image["height"] <= 422
        heat = visit.page.locator(f"{frame} canvas.heat").bounding_box()
        assert heat == pytest.approx(image, abs=1)


def test_what_is_no_picture_is_refused_in_plain_words(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    bad, text, tiny = tmp_path / "bad.png", tmp_path / "notes.txt", tmp_path / "tiny.png"
    bad.write_bytes(b"\x89PNG but not really")
    text.write_text("hello")
    Image.new("RGB", (1, 1)).save(tiny)
    caption = page.inner_text("#caption")
    trouble = page.locator("#trouble")
    page.set_input_files("#file", bad)
    playwright.expect(trouble).to_have_text("bad.png cannot be opened as a picture.")
    page.set_input_files("#file", text)
    playwright.expect(trouble).to_have_text("notes.txt is not a PNG, JPEG, WebP or GIF picture.")
    assert page.inner_text("#caption") == caption
    assert page.input_value("#file") == ""
    page.set_input_files("#file", tiny)
    playwright.expect(trouble).to_be_empty()
    visit.ask()
    assert "1x1" in page.inner_text(".reply .trouble >> nth=0")
    assert all("status of 400" in line for line in visit.wrong)
    visit.wrong.clear()


def test_a_value_out_of_range_is_refused_in_the_servers_words(visit: Visit) -> None:
    """The form may be closed over the field, so the browser's own check would block in silence."""
    page = visit.page
    page.click(".arm >> nth=1 >> summary")
    page.fill(".parameters input >> nth=0", "99")
    page.click(".arm >> nth=1 >> summary")
    visit.ask(example()[0]["questions"][0])
    (told,) = page.locator(".reply .trouble").all_inner_texts()
    assert "alpha=99" in told
    page.fill("#question", "  ")
    page.click("#send")
    playwright.expect(page.locator("#trouble")).to_have_text("Write a question first.")
    page.fill("#question", "What is this?")
    playwright.expect(page.locator("#trouble")).to_be_empty()
    assert all("status of 400" in line for line in visit.wrong)
    visit.wrong.clear()


def test_a_wrong_key_is_said_to_be_wrong(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = new_key(file, "ann")
    with live(api_key_file=file) as server:
        visit = Visit(browser, server.url)
        page = visit.page
        assert page.locator("#key").is_visible()
        page.fill("#key", "halu-wrong")
        page.click("#use-key")
        playwright.expect(page.locator("#key-trouble")).to_have_text(
            "The server does not know this key."
        )
        page.fill("#key", key)
        page.keyboard.press("Enter")
        visit.ready()
        assert page.locator("#login").is_hidden()
        assert all(visit.ask(example()[0]["questions"][0]))
        for label in ("curl", "Python"):
            assert key not in _copied(visit, label)
            assert "HALU_API_KEY" in _copied(visit, label)
        kept = page.evaluate("[{...localStorage}, {...sessionStorage}, document.cookie]")
        assert kept == [{}, {}, ""]
        assert all("status of 401" in line for line in visit.wrong)
        page.context.close()


def test_names_that_carry_a_strategy_are_not_offered_as_models(browser: Any) -> None:
    with live(models=("tiny-llava", "tiny-qwen"), listed_strategies=("vcd",)) as server:
        page = Visit(browser, server.url).ready().page
        assert len(server.get("/v1/models").json()["data"]) == 4
        assert page.locator("#model option").all_inner_texts() == ["tiny-llava", "tiny-qwen"]
        page.context.close()


def test_stop_ends_the_work(browser: Any) -> None:
    with live(load=_slow) as server:
        (worker,) = server.site.workers.values()
        visit = Visit(browser, server.url).ready()
        visit.page.click("#send")
        visit.page.wait_for_selector(".words button")
        visit.page.click("#stop")
        until(lambda: worker.rows == 0, 5)
        visit.answers()
        assert visit.page.locator(".state").all_inner_texts() == ["stopped", "stopped"]
        assert visit.page.locator("#stop").is_disabled()
        assert visit.wrong == []
        visit.page.context.close()


def _slow(source: str, device: str | None) -> Any:
    """A model that takes its time, so that it can be stopped."""
    import halu

    vlm = halu.load(source, device=device)
    runner = vlm.adapter.runner
    step = runner.step

    def slow(*args: Any) -> Any:
        time.sleep(0.2)
        return step(*args)

    runner.step = slow
    return vlm


def test_a_server_that_is_gone_is_said_to_be_gone(visit: Visit) -> None:
    visit.page.route("**/v1/chat/completions", lambda route: route.abort())
    visit.ask()
    told = visit.page.locator(".reply .trouble").all_inner_texts()
    assert told == ["The server does not answer. Is it still running?"] * 2
    assert all("net::ERR" in line for line in visit.wrong)
    visit.wrong.clear()


def test_the_examples_are_scenes_of_the_built_in_world() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import page_examples as tool
    finally:
        sys.path.pop(0)
    listed = json.loads((STATIC / "examples" / "examples.json").read_text(encoding="utf-8"))
    assert len(listed) == len(tool.SEEDS)
    for one, (seed, asked) in zip(listed, tool.SEEDS.items(), strict=True):
        scene = tool.draw(seed, "test", tool.SIDE)
        assert one == tool.entry(scene, asked)
        shipped = np.asarray(_opened(one["file"]), float)
        assert np.abs(shipped - scene.image).mean() < 6
