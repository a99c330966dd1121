"""The endpoint plugin without an engine: which settings it takes, and which chats it answers."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from halu.errors import BadInput, Unknown
from halu.service.deployment import deployment
from halu.service.in_vllm import CHAT, USED, Endpoint, settings_here, translated
from halu.service.settings import Settings
from halu.service.shelf import Served

REFUSED = sorted(set(Settings.model_fields) - set(USED))
TEXT = [{"role": "user", "content": "Hello?"}]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


def test_what_the_route_does_not_use_is_refused() -> None:
    """Nobody may believe that keys or limits hold here which nothing enforces."""
    for name in ("api_key_file", "allowed_hosts", "max_body_mib", "body_seconds", "max_requests"):
        assert name in REFUSED
    for name in REFUSED:
        with pytest.raises(BadInput, match=name):
            settings_here({name: Settings.model_fields[name].default}, slots=4)
    with pytest.raises(Unknown, match="max_new_tokens"):
        settings_here({"max_new_token": 3}, slots=4)


def test_nor_does_it_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALU_API_KEY_FILE", "keys.json")
    with pytest.raises(BadInput, match="api_key_file"):
        settings_here({}, slots=4)


def test_what_it_uses_is_taken() -> None:
    settings = settings_here({"max_new_tokens": 128, "strategy": "vcd"}, slots=4)
    assert (settings.max_new_tokens, settings.strategy) == (128, "vcd")
    assert (settings.max_rows, settings.backend) == (4, "vllm")
    assert settings_here({"max_rows": 2}, slots=4).max_rows == 2


def site(**own: Any) -> Any:
    """The parts behind the route; nothing is loaded."""
    offered = {None: [Served("llava", "tiny-llava", None)]}

    def none(source: str, device: str | None) -> Any:
        raise AssertionError("no model is needed")

    return deployment(settings_here(own, slots=4), none, offered)


@pytest.fixture
def client() -> TestClient:
    """A server whose own chat route only says that it was called; halu's stands before it."""
    app = FastAPI()

    @app.post(CHAT)
    async def stock() -> str:
        return "stock"

    endpoint = Endpoint()
    endpoint.attach_router(app)
    (own,) = [one for one in app.routes if getattr(one, "endpoint", None) == endpoint.chat]
    app.router.routes.remove(own)
    app.router.routes.insert(0, own)  # vLLM has it take the other's place
    endpoint.site = site()
    return TestClient(app)


@pytest.mark.parametrize("kind", ["text/plain", "text/plain; charset=application/json", ""])
def test_what_is_not_said_to_be_json_is_for_vllm_to_refuse(client: TestClient, kind: str) -> None:
    """A page in a browser sends such a body to any server without asking."""
    sent = json.dumps({"model": "llava@nobody", "messages": PICTURE})
    reply = client.post(CHAT, content=sent, headers={"content-type": kind} if kind else {})
    assert reply.json() == "stock"
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        reply = client.post(CHAT, content=sent, headers={"content-type": kind})
        assert reply.status_code == 400
        assert "nobody" in reply.json()["error"]["message"]


def asks(house: Any, messages: Any, **more: Any) -> Any:
    return translated(json.dumps({"messages": messages, **more}).encode(), None, house)


def test_json_that_is_too_deep_is_no_chat_and_no_options() -> None:
    house = site()
    assert translated(b"[" * 100_000, None, house) is None
    with pytest.raises(BadInput, match="no JSON string"):
        asks(house, TEXT, vllm_xargs={"halu": "[" * 100_000})


def test_the_operators_strategy_is_for_chats_that_show_a_picture() -> None:
    """The others stay with vLLM, which knows tools and grammars."""
    house = site(strategy="vcd")
    assert asks(house, PICTURE)["model"] == "llava"
    assert asks(house, TEXT, tools=[]) is None
    assert asks(house, [{"role": "user", "content": [{"type": "text", "text": "?"}]}]) is None
    assert asks(site(), PICTURE) is None
    assert asks(house, TEXT, model="llava@vcd") is not None
    for odd in (None, 3, [None], [{"content": 3}], [{"content": [None, "image_url"]}]):
        assert asks(house, odd) is None
