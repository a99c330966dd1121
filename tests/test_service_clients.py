"""Other clients against a live server: curl, LangChain, LiteLLM."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from live import chat, uri

QUESTION = "Is there a dog in the image?"
BESIDE = Path(__file__).parent.parent / ".venv-litellm"


def curl(*args: str) -> str:
    done = subprocess.run(["curl", "-sS", *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl(served: Any, scene: Any, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_text(json.dumps({**chat(scene, QUESTION), "model": "tiny-llava@vcd"}))
    post = ("-H", "content-type: application/json", "-d", f"@{file}")
    reply = json.loads(curl(f"{served.url}/v1/chat/completions", *post))
    assert reply["halu"]["strategy"]["name"] == "vcd"
    file.write_text(json.dumps({**chat(scene, QUESTION), "stream": True}))
    lines = curl("-N", f"{served.url}/v1/chat/completions", *post).strip().splitlines()
    assert lines[-1] == "data: [DONE]"
    status = curl("-o", os.devnull, "-w", "%{http_code}", f"{served.url}/v1/nothing")
    assert status == "404"


def test_langchain(served: Any, scene: Any) -> None:
    langchain = pytest.importorskip("langchain_openai")
    from langchain_core.messages import HumanMessage

    model = langchain.ChatOpenAI(
        base_url=f"{served.url}/v1",
        api_key="none",
        model="tiny-llava",
        max_tokens=20,
        stream_usage=True,
        extra_body={"halu": {"strategy": "vhr"}},
    )
    picture = {"type": "image_url", "image_url": {"url": uri(scene)}}
    message = HumanMessage(content=[picture, {"type": "text", "text": QUESTION}])
    reply = model.invoke([message])
    assert reply.content
    assert reply.usage_metadata["total_tokens"] > 64
    streamed = "".join(chunk.content for chunk in model.stream([message]))
    assert streamed == reply.content
    assert [one.content for one in model.batch([[message], [message]])] == [reply.content] * 2


LITELLM = """
import json, os, sys
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
asked = json.loads(sys.stdin.read())
options = {"api_base": sys.argv[1], "api_key": "none", **asked, "model": "openai/tiny-llava@vcd"}
reply = litellm.completion(**options)
stream = litellm.completion(**options, stream=True)
said = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
try:
    litellm.completion(**options, n=99)
except litellm.BadRequestError as error:
    refused = "at most" in str(error)
print(json.dumps([reply.choices[0].message.content, said, refused, reply.usage.total_tokens]))
"""


@pytest.mark.slow
def test_litellm(served: Any, scene: Any) -> None:
    """In an environment of its own: its pins rule out current hub clients."""
    if not (BESIDE / ".made").exists():
        pytest.skip("no LiteLLM: `make test-clients` gets it")
    done = subprocess.run(
        [BESIDE / "bin" / "python", "-c", LITELLM, f"{served.url}/v1"],
        input=json.dumps(chat(scene, QUESTION)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    whole, said, refused, tokens = json.loads(done.stdout.splitlines()[-1])
    assert whole
    assert said == whole
    assert refused
    assert tokens > 64
