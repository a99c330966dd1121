"""The endpoint plugin without an engine: which settings it takes, and which chats it answers."""

import pytest

from halu.errors import BadInput, Unknown
from halu.service.in_vllm import USED, settings_here
from halu.service.settings import Settings

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
