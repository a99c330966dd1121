"""The must-haves, and a test for each advisory that concerns such servers."""

import base64
import gzip
import io
import json
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

pytest.importorskip("prometheus_client")

from live import chat, live, until, uri

from halu.errors import BadInput
from halu.service.keys import new_key, read_keys
from halu.service.limits import House, Rates
from halu.service.refusals import Busy, TooFast
from halu.service.settings import read_settings

SERVICE = Path(__file__).parent.parent / "service"
QUESTION = "Is there a dog in the image?"


def shown(url: str, **more: Any) -> dict[str, Any]:
    """A chat request about a picture at an address."""
    part = {"type": "image_url", "image_url": {"url": url, **more}}
    content = [part, {"type": "text", "text": QUESTION}]
    return {"model": "tiny-llava", "messages": [{"role": "user", "content": content}]}


def refused(server: Any, body: dict[str, Any], status: int, code: str) -> str:
    reply = server.post("/v1/chat/completions", **body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    message: str = error["message"]
    assert not re.search(r"0x[0-9a-f]{6}|Traceback|site-packages|\.py\b|PIL|<.* object", message)
    return message


def data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png(width: int, height: int) -> bytes:
    """A tiny file that claims to be a picture of this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# Pictures


@pytest.mark.parametrize("url", [
    "https://169.254.169.254/latest/meta-data/", "http://localhost:8000/health",
    "https://example.com/a.png", "file:///etc/passwd", "/etc/passwd", "../secret.png",
])  # fmt: skip
def test_cve_2025_6242_and_cve_2026_33626_no_address_is_fetched(served: Any, url: str) -> None:
    message = refused(served, shown(url), 400, "invalid_image_url")
    assert message == "This server does not fetch that address. Send the picture as a data URI."


def test_cve_2026_24779_one_parser(served: Any) -> None:
    with live(remote_hosts=("images.example",)) as server:
        for url in ("https://images.example\\@127.0.0.1/", "https://images.example:443@127.0.0.1/"):
            refused(server, shown(url), 400, "invalid_image_url")


@pytest.mark.parametrize("size", [(50_000, 50_000), (16_000, 16_000), (100_000, 8), (8, 100_000)])
def test_vllm_47010_a_pixel_bomb_is_known_by_its_header(served: Any, size: tuple[int, int]) -> None:
    message = refused(served, shown(data(png(*size))), 400, "image_too_large")
    assert "pixels" in message
    assert Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 1)])
def test_cve_2026_22773_a_tiny_picture_is_refused_and_the_engine_lives(
    served: Any, scene: Any, size: tuple[int, int]
) -> None:
    refused(served, shown(uri(Image.new("RGB", size))), 400, "image_too_small")
    assert served.chat(scene, QUESTION, max_tokens=2).status_code == 200


def test_extreme_proportions_do_not_reach_the_engine_unguarded(served: Any) -> None:
    reply = served.post("/v1/chat/completions", **shown(uri(Image.new("RGB", (8, 2000)))))
    assert reply.status_code in (200, 400)


def test_cve_2026_22778_a_broken_picture_gets_fixed_words(served: Any, scene: Any) -> None:
    whole = base64.b64decode(uri(scene).partition(",")[2])
    for broken in (
        whole[: len(whole) // 2],
        whole[:-20] + b"\0" * 20,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
    ):
        reply = served.post("/v1/chat/completions", **shown(data(broken)))
        if reply.status_code != 200:
            assert reply.json()["error"]["code"] in (
                "invalid_image",
                "unsupported_image_media_type",
            )
            assert not re.search(r"0x|PIL|truncated \(|object", reply.json()["error"]["message"])


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("ICO", "image/png"),
        ("BMP", "image/png"),
        ("TIFF", "image/jpeg"),
    ],
)
def test_cve_2026_40192_only_listed_formats_are_opened(
    served: Any, scene: Any, form: str, kind: str
) -> None:
    file = io.BytesIO()
    scene.save(file, form)
    refused(served, shown(data(file.getvalue(), kind)), 400, "unsupported_image_media_type")


def fits(width: int, height: int) -> bytes:
    """A FITS file whose picture is compressed by gzip, which is what the flaw was in."""

    def unit(*cards: str) -> bytes:
        text = "".join(card.ljust(80) for card in (*cards, "END"))
        return text.ljust(-(-len(text) // 2880) * 2880).encode()

    table = ("BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 8", "NAXIS2  = 1", "ZIMAGE  = T")
    packed = ("ZCMPTYPE= 'GZIP_1  '", "ZBITPIX = 8", "ZNAXIS  = 2")
    size = (f"ZNAXIS1 = {width}", f"ZNAXIS2 = {height}")
    head = unit("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0")
    extension = unit("XTENSION= 'BINTABLE'", *table, *packed, *size)
    return head + extension + b"\0" * 8 + gzip.compress(b"\0" * 4 * width * height)


@pytest.mark.parametrize("kind", ["image/fits", "image/png"])
def test_cve_2026_40192_a_fits_file_is_not_opened(served: Any, kind: str) -> None:
    file = fits(16, 12)
    with Image.open(io.BytesIO(file)) as opened:  # Pillow itself would
        assert (opened.format, opened.size) == ("FITS", (16, 12))
    refused(served, shown(data(file, kind)), 400, "unsupported_image_media_type")


def test_berriai_litellm_24518_no_extra_brings_litellm() -> None:
    root = SERVICE.parent
    wanted = (root / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.")[0]
    pinned = (root / "constraints.txt").read_text(encoding="utf-8")
    assert "fastapi" in wanted
    assert "fastapi==" in pinned
    assert "litellm" not in (wanted + pinned).lower()


def test_cve_2025_62164_tensors_are_no_pictures(served: Any) -> None:
    import torch

    file = io.BytesIO()
    torch.save(torch.zeros(4), file)
    for kind in ("application/octet-stream", "image/png"):
        refused(served, shown(data(file.getvalue(), kind)), 400, "unsupported_image_media_type")
    part = {"type": "image_embeds", "image_embeds": base64.b64encode(file.getvalue()).decode()}
    body = {"model": "tiny-llava", "messages": [{"role": "user", "content": [part]}]}
    assert served.post("/v1/chat/completions", **body).status_code == 400


@pytest.mark.parametrize(("url", "code"), [
    ("data:image/png;base64,", "empty_image_file"),
    ("data:image/png;base64,***", "invalid_base64_image"),
    ("data:image/png;base64,AAA", "invalid_base64_image"),
    ("data:image/png,AAAA", "invalid_image_url"),
    ("data:", "invalid_image_url"),
    ("data:text/html;base64,AAAA", "unsupported_image_media_type"),
    ("data:image/svg+xml;base64,AAAA", "unsupported_image_media_type"),
    ("data:image/png;base64,AAAA", "unsupported_image_media_type"),
])  # fmt: skip
def test_data_that_are_no_picture(served: Any, url: str, code: str) -> None:
    refused(served, shown(url), 400, code)


def test_a_data_uri_is_capped_before_it_is_decoded(monkeypatch: Any) -> None:
    from halu.service import intake

    monkeypatch.setattr(intake.base64, "b64decode", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(BadInput, match="more than"):
        intake.from_data_uri("data:image/png;base64," + "A" * 2000, 1000)


def test_frames_metadata_and_orientation() -> None:
    from halu.images import open_image

    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    exif[0x010E] = "where it was taken"
    Image.new("RGB", (40, 20), "red").save(file, "JPEG", exif=exif)
    picture = open_image(file.getvalue())
    assert picture.size == (20, 40)
    assert not picture.getexif()
    assert picture.info == {}
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(file := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    assert open_image(file.getvalue()).getpixel((0, 0)) == (255, 0, 0)


def test_pictures_are_limited_in_number_and_all_together(scene: Any) -> None:
    with live(max_images=2, max_pixels=20_000) as server:
        three = chat(scene, scene, scene, QUESTION)
        refused(server, three, 400, "invalid_image")
        refused(server, chat(scene, scene, QUESTION), 400, "image_too_large")  # 2 x 12,544
        assert server.chat(scene, QUESTION).status_code == 200


def test_vllm_43117_there_is_one_door_for_bytes() -> None:
    """No part of the service fetches or opens but the intake."""
    network = r"(import|from) (httpx|requests|urllib\.request|aiohttp|socket)"
    for file in SERVICE.glob("*.py"):
        text = file.read_text()
        if file.name not in ("fetch.py", "serving.py"):
            assert not re.search(network, text), file.name
        if file.name not in ("intake.py",):
            assert "open_image" not in text, file.name
        assert "Image.open" not in text, file.name
        assert not re.search(r"\bpickle|torch\.load|trust_remote_code=True", text), file.name


# Caches


def test_cve_2025_46722_pictures_of_other_shapes_never_share_features() -> None:
    import torch

    from halu.adapters.vision import digest

    flat = torch.arange(24.0)
    shapes = [(1, 3, 2, 4), (1, 3, 4, 2), (2, 3, 2, 2), (24,)]
    digests = {digest({"pixel_values": flat.reshape(shape)}) for shape in shapes}
    assert len(digests) == len(shapes)


def test_cve_2025_46570_tenants_do_not_share_what_was_computed(tmp_path: Path, scene: Any) -> None:
    """Else the time to the first token would tell what others have shown."""
    file = tmp_path / "keys"
    keys = {name: new_key(file, name) for name in ("ann", "bob")}
    with live(api_key_file=file) as server:
        (worker,) = server.site.workers.values()
        runner = worker.shelf.loaded["tiny-llava"].adapter.runner
        looks = []
        look = runner.vision._look
        runner.vision._look = lambda pixels: looks.append(1) or look(pixels)

        def ask(name: str) -> int:
            before = len(looks)
            reply = httpx2.post(
                f"{server.url}/v1/chat/completions",
                json=chat(scene, QUESTION),
                headers={"authorization": f"Bearer {keys[name]}"},
                trust_env=False,
                timeout=30,
            )
            assert reply.status_code == 200
            return len(looks) - before

        assert [ask("ann"), ask("ann"), ask("bob"), ask("ann"), ask("bob")] == [1, 0, 1, 0, 0]


# Keys, names, limits


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: Any) -> Iterator[tuple[Any, str]]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    key = new_key(file, "ann")
    with live(api_key_file=file, rate_per_minute=5) as server:
        yield server, key


def test_vllm_58144_a_key_protects_every_route(guarded: tuple[Any, str]) -> None:
    server, _ = guarded
    paths = server.get("/openapi.json").json()["paths"]  # the program's own, as the page is
    public = {"/health", "/ready", "/version"}
    assert public < set(paths)
    for path, methods in paths.items():
        for method in methods:
            url = server.url + path.replace("{model}", "tiny-llava")
            reply = httpx2.request(method.upper(), url, trust_env=False)
            assert (reply.status_code != 401) == (path in public), path
    assert "/v1/chat/completions" in server.get("/docs").text
    for path in ("/docs/", "/docs/x", "/v1", "/nothing", "/static/../v1/models", "/metrics"):
        assert server.get(path).status_code in (401, 404), path
        if "static" not in path:
            assert server.get(path).status_code == 401, path
    assert server.get("/").status_code == 200


@pytest.mark.parametrize("header", [
    "", "Bearer", "Bearer wrong", "Basic YTpi", "bearer  x", "Bearer \u00e9",
])  # fmt: skip
def test_wrong_keys(guarded: tuple[Any, str], header: str) -> None:
    server, _ = guarded
    headers = {"authorization": header.encode()} if header else {}
    reply = httpx2.get(f"{server.url}/v1/models", headers=headers, trust_env=False)
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.headers["x-should-retry"] == "false"


def test_a_right_key_and_its_rate(guarded: tuple[Any, str]) -> None:
    server, key = guarded

    def ask() -> Any:
        headers = {"authorization": f"Bearer {key}"}
        body = chat("Hello?", max_tokens=1)
        return httpx2.post(
            f"{server.url}/v1/chat/completions", json=body, headers=headers, trust_env=False
        )

    replies = [ask() for _ in range(7)]
    assert [reply.status_code for reply in replies[:5]] == [200] * 5
    last = replies[-1]
    assert last.status_code == 429
    assert last.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(last.headers["retry-after"]) <= 12


def test_the_bucket_refills() -> None:
    now = [0.0]
    rates = Rates(60, clock=lambda: now[0])
    for _ in range(60):
        rates.take("ann")
    with pytest.raises(TooFast) as raised:
        rates.take("ann")
    assert raised.value.seconds == pytest.approx(1.0)
    rates.take("bob")
    now[0] += 2.0
    rates.take("ann")
    rates.take("ann")
    with pytest.raises(TooFast):
        rates.take("ann")


def test_places_come_back() -> None:
    house = House(1)
    with house.place(), pytest.raises(Busy):
        house.place().__enter__()
    with house.place():
        pass
    house.closing = True
    with pytest.raises(Busy, match="stop"):
        house.place().__enter__()


def test_keys_are_kept_as_hashes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch(0o600)
    file.write_text("# our keys", encoding="utf-8")  # no end of line, as some editors leave it
    first, second = new_key(file, "ann"), new_key(file, "ann")
    text = file.read_text()
    assert first not in text
    assert second not in text
    assert file.stat().st_mode & 0o077 == 0
    keys = read_keys(file)
    assert keys.owner(first) == keys.owner(second) == "ann"
    assert keys.owner(first[:-1]) is None
    assert keys.owner("") is None
    file.write_text("ann nothex\n")
    with pytest.raises(BadInput, match="line 1"):
        read_keys(file)
    file.write_text("# nobody\n")
    with pytest.raises(BadInput, match="no keys"):
        read_keys(file)


def test_keys_are_needed_where_others_can_connect(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="keys are needed"):
        read_settings({"host": "0.0.0.0"})
    assert read_settings({"host": "0.0.0.0", "api_key_file": tmp_path / "keys"}).host == "0.0.0.0"


def test_a_page_elsewhere_cannot_use_the_server_on_loopback(served: Any) -> None:
    """DNS rebinding: the browser believes evil.example to be this machine."""
    reply = served.get("/v1/models", host="evil.example")
    assert reply.status_code == 403
    assert served.get("/v1/models", host="localhost:1234").status_code == 200
    cross = httpx2.post(
        f"{served.url}/v1/chat/completions",
        content=json.dumps(chat("Hello?")),
        headers={"content-type": "text/plain"},
        trust_env=False,
    )
    assert cross.status_code == 400  # what a form on another page could send without being asked
    assert "access-control-allow-origin" not in cross.headers


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_is_counted_while_it_is_read(chunked: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x" * 10_000

    with live(max_body_mib=1) as server:
        content = pieces() if chunked else b"x" * 3_000_000
        reply = httpx2.post(
            f"{server.url}/v1/chat/completions",
            content=content,
            headers={"content-type": "application/json"},
            trust_env=False,
        )
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "request_too_large"


def test_a_body_that_dribbles_in_holds_its_place_for_a_while_only() -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n"
    with live(body_seconds=0.5, max_requests=1) as server:
        place = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with socket.create_connection(place, timeout=30) as slow:
            slow.sendall(f"{head}content-type: application/json\r\n\r\n{{".encode())
            until(lambda: server.site.house.inside == 1)
            assert server.chat("Hello?").status_code == 503
            reply = slow.recv(10_000).decode()
        assert reply.startswith("HTTP/1.1 408 ")
        assert '"code":"request_timeout"' in reply
        assert "x-should-retry" not in reply
        assert server.site.house.inside == 0
        assert server.chat("Hello?", max_tokens=2).status_code == 200


# What clients may not say


WEIGHTS = ["objects:finders=open", "clip:weights=/etc"]
"""Detectors of a strategy that bring an operator's parameters along."""


@pytest.mark.parametrize("given", [WEIGHTS, WEIGHTS[0], ["ocr", WEIGHTS[1]]])
@pytest.mark.parametrize("strategy", ["sentinel", "woodpecker"])
def test_weights_of_a_strategys_detectors_are_named_by_the_operator(
    served: Any, scene: Any, strategy: str, given: Any
) -> None:
    for name, param in ((strategy, "detectors"), (f"vhr+{strategy}", f"{strategy}.detectors")):
        halu = {"strategy": name, "params": {param: given}}
        reply = served.chat(scene, QUESTION, halu=halu)
        assert reply.status_code == 400
        assert "set by the operator" in reply.json()["error"]["message"]
    twice = {"detectors": ["objects"], f"{strategy}.detectors": given}
    reply = served.chat(scene, QUESTION, halu={"strategy": strategy, "params": twice})
    assert reply.status_code == 400


@pytest.mark.parametrize(
    "given", [7, {"a": 1}, [7], "nobody", ["objects:threshold=" + "[" * 5000]], ids=repr
)
def test_detectors_of_a_strategy_that_are_no_names(served: Any, scene: Any, given: Any) -> None:
    halu = {"strategy": "woodpecker", "params": {"detectors": given}}
    assert served.chat(scene, QUESTION, halu=halu).status_code == 400


def test_a_strategys_name_has_an_end(served: Any, scene: Any) -> None:
    long = "x" * 300
    suffixed = served.chat(scene, QUESTION, model=f"tiny-llava@{long}")
    headed = httpx2.post(
        f"{served.url}/v1/chat/completions",
        json=chat(scene, QUESTION),
        headers={"x-halu-strategy": long},
        trust_env=False,
    )
    for reply in (suffixed, headed):
        assert reply.status_code == 400
        assert "more than 200 letters" in reply.json()["error"]["message"]


OPERATORS = [
    ("agla", "weights", "/etc"), ("agla", "matcher", "blip-itm"), ("ara", "index", "mine"),
    ("ara", "detector", "x/y"), ("ara", "boxes", "grounding-dino"), ("halc", "weights", "x/y"),
    ("halc", "detector", "x/y"), ("halc", "boxes", "grounding-dino"),
    ("halc", "matcher", "blip-itm"),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "key", "value"), OPERATORS)
def test_files_and_weights_are_named_by_the_operator(
    served: Any, scene: Any, strategy: str, key: str, value: str
) -> None:
    for name, param in ((strategy, key), (f"vhr+{strategy}", f"{strategy}.{key}")):
        halu = {"strategy": name, "params": {param: value}}
        reply = served.chat(scene, QUESTION, halu=halu)
        assert reply.status_code == 400
        assert "set by the operator" in reply.json()["error"]["message"]
    schema = next(
        one for one in served.get("/v1/strategies").json()["data"] if one["name"] == strategy
    )
    assert schema["params"]["properties"][key]["operator"] is True


def test_no_other_parameter_names_files() -> None:
    """A parameter that is free text must be known to be a text, else it is the operator's."""
    from halu.strategy import strategies

    texts = {
        "agla.text", "ara.introduction", "ara.caption", "carve.general", "carve.suffix",
        "code.describe", "icd.disturbance", "sentinel.detectors", "vdgd.describe", "vdgd.prefix",
        "woodpecker.detectors", "woodpecker.wish",
    }  # fmt: skip
    for strategy in strategies:
        for name, field in strategy.Params.model_fields.items():
            if "str" in str(field.annotation) and "Literal" not in str(field.annotation):
                marked = isinstance(field.json_schema_extra, dict)
                assert marked or f"{strategy.name}.{name}" in texts, f"{strategy.name}.{name}"


def test_what_the_operator_sets_is_used(scene: Any) -> None:
    with live(strategy_params={"vcd": {"alpha": 2.5}}) as server:
        ran = server.chat(scene, QUESTION, halu={"strategy": "vcd"}).json()["halu"]["strategy"]
        assert ran["params"]["alpha"] == 2.5
        own = {"strategy": "vcd", "params": {"alpha": 0.5}}
        ran = server.chat(scene, QUESTION, halu=own).json()["halu"]["strategy"]
        assert ran["params"]["alpha"] == 0.5


def test_placeholders_in_the_text_are_refused(served: Any) -> None:
    assert served.chat("What is <image> here?").status_code == 400


def test_no_caller_templates(served: Any) -> None:
    reply = served.chat("Hello?", max_tokens=1, chat_template="{{ 1/0 }}")
    assert reply.status_code == 200  # unknown fields are ignored, this one too


# Logs and errors


def test_logs_have_no_prompts_and_no_pictures(caplog: Any, served: Any, scene: Any) -> None:
    secret = "my secret question about the dog"
    caplog.set_level("DEBUG")
    served.chat(scene, secret, max_tokens=2)
    served.chat(scene, secret, temperature=99)
    served.post("/v1/chat/completions", **shown("data:image/png;base64,c2VjcmV0"))
    told = "\n".join(
        record.getMessage() + json.dumps(getattr(record, "told", {}), default=str)
        for record in caplog.records
    )
    assert "tiny-llava" in told
    for word in ("secret", "c2VjcmV0", uri(scene)[50:80]):
        assert word not in told


def test_a_log_line_is_json_and_an_exception_keeps_its_words(capsys: Any) -> None:
    import logging

    from halu.service.logs import JsonLines, request_id

    token = request_id.set("req-1")
    try:
        raise ValueError("what the user wrote")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), info)
    line = json.loads(JsonLines().format(record))
    request_id.reset(token)
    assert line["request_id"] == "req-1"
    assert line["exception"]["type"] == "ValueError"
    assert "what the user wrote" not in json.dumps(line)


def test_request_ids_come_back(served: Any) -> None:
    assert served.get("/health", **{"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    odd = served.get("/health", **{"x-request-id": "a b{" * 50}).headers["x-request-id"]
    assert odd.startswith("req-")
