"""The `openai` package against a live server: what apps in the field do, unchanged."""

import asyncio
import json
import re
from typing import Any

import httpx2
import pytest

openai = pytest.importorskip("openai")

from live import chat, live, uri

QUESTION = "Is there a dog in the image?"
DESCRIBE = "Please describe this image in detail."


@pytest.fixture(scope="module")
def client(served: Any) -> Any:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as found:
        yield found


def test_a_picture_and_a_question(client: Any, scene: Any) -> None:
    reply = client.chat.completions.create(**chat(scene, QUESTION))
    assert reply.object == "chat.completion"
    assert reply.id.startswith("chatcmpl-")
    assert reply.model == "tiny-llava"
    (choice,) = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content.split()[0].strip(",.") in ("Yes", "No")
    assert choice.finish_reason == "stop"
    usage = reply.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.image_tokens == 64
    assert reply.system_fingerprint.startswith("halu-")
    assert reply.halu["strategy"] == {"name": "greedy", "params": {}}


def test_the_answer_is_the_librarys(client: Any, scene: Any) -> None:
    import halu

    vlm = halu.load("tiny-llava")
    reply = client.chat.completions.create(
        **chat(scene, DESCRIBE), max_tokens=40, extra_body={"halu": {"strategy": "vcd"}}
    )
    own = vlm.ask(scene, DESCRIBE, strategy="vcd", max_new_tokens=40)
    assert reply.choices[0].message.content == own.text
    assert reply.halu["strategy"] == own.strategy.model_dump(mode="json")
    assert reply.halu["forwards"] == own.usage.forwards
    assert reply.usage.completion_tokens == own.usage.completion_tokens


def test_an_app_that_can_only_name_a_model(client: Any, scene: Any) -> None:
    body = {**chat(scene, DESCRIBE), "model": "tiny-llava@vhr+ritual", "max_tokens": 8}
    by_name = client.chat.completions.create(**body)
    by_field = client.chat.completions.create(
        **chat(scene, DESCRIBE, max_tokens=8), extra_body={"halu": {"strategy": "vhr+ritual"}}
    )
    by_header = client.chat.completions.create(
        **chat(scene, DESCRIBE, max_tokens=8), extra_headers={"x-halu-strategy": "vhr+ritual"}
    )
    assert by_name.model == "tiny-llava@vhr+ritual"
    assert by_name.halu["strategy"]["name"] == "vhr+ritual"
    texts = {one.choices[0].message.content for one in (by_name, by_field, by_header)}
    assert len(texts) == 1


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 5}, {"stop": [" a"]}])
def test_a_stream_says_what_the_whole_answer_says(
    client: Any, scene: Any, options: dict[str, Any]
) -> None:
    body = {**chat(scene, DESCRIBE), "max_tokens": 30, **options}
    whole = client.chat.completions.create(**body)
    chunks = list(
        client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices)
    assert said == whole.choices[0].message.content
    ends = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert ends == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_has_none(served: Any) -> None:
    body = {**chat("Hello?"), "stream": True, "max_tokens": 3}
    with httpx2.stream(
        "POST", f"{served.url}/v1/chat/completions", json=body, trust_env=False
    ) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert all("usage" not in chunk and len(chunk["choices"]) == 1 for chunk in chunks)
    assert all(chunk["choices"][0]["delta"] is not None for chunk in chunks)


def test_several_choices(client: Any, scene: Any) -> None:
    body = {**chat(scene, DESCRIBE), "n": 3, "temperature": 1.0, "seed": 7, "max_tokens": 20}
    reply = client.chat.completions.create(**body)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in reply.choices]
    assert len(set(texts)) > 1
    assert reply.usage.completion_tokens > 20
    again = client.chat.completions.create(**body)
    assert [choice.message.content for choice in again.choices] == texts
    third = client.chat.completions.create(**{**body, "n": 1, "seed": 9})
    assert third.choices[0].message.content == texts[2]
    streamed: dict[int, str] = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert list(streamed.values()) == texts


def test_logprobs(client: Any, scene: Any) -> None:
    body = {**chat(scene, QUESTION), "logprobs": True, "top_logprobs": 3}
    content = client.chat.completions.create(**body).choices[0].logprobs.content
    assert all(token.logprob <= 0 for token in content)
    assert all(len(token.top_logprobs) == 3 for token in content)
    first = content[0]
    assert first.token == first.top_logprobs[0].token  # greedy takes the best
    assert bytes(first.bytes).decode() == first.token
    streamed = [
        token
        for chunk in client.chat.completions.create(**body, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content
    ]
    assert [token.logprob for token in streamed] == [token.logprob for token in content]


def test_log_probabilities_that_a_strategy_rules_out_are_json(served: Any, scene: Any) -> None:
    body = chat(scene, QUESTION, logprobs=True, top_logprobs=20, max_tokens=2, stream=True)
    reply = served.post("/v1/chat/completions", **body, halu={"strategy": "vcd"})
    assert '"top_logprobs":[' in reply.text
    assert not re.search(r"Infinity|NaN", reply.text)


def test_the_fingerprint_is_of_model_strategy_and_values(client: Any, scene: Any) -> None:
    def mark(**halu: Any) -> str:
        reply = client.chat.completions.create(
            **chat(scene, QUESTION, max_tokens=1), extra_body={"halu": halu}
        )
        return str(reply.system_fingerprint)

    vcd = {"strategy": "vcd", "params": {"alpha": 0.5}}
    assert mark(**vcd) == mark(**vcd)
    others = (mark(), mark(strategy="vcd"), mark(strategy="vcd", params={"alpha": 0.6}))
    assert len({mark(**vcd), *others}) == 4


def test_stop_and_length(client: Any, scene: Any) -> None:
    whole = client.chat.completions.create(**chat(scene, DESCRIBE)).choices[0].message.content
    word = whole.split()[3]
    cut = client.chat.completions.create(**chat(scene, DESCRIBE), stop=word).choices[0]
    assert cut.message.content == whole[: whole.index(word)]
    assert cut.finish_reason == "stop"
    short = client.chat.completions.create(**chat(scene, DESCRIBE), max_completion_tokens=4)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 4


def test_evidence(client: Any, scene: Any) -> None:
    reply = client.chat.completions.create(
        **chat(scene, QUESTION), extra_body={"halu": {"evidence": True}}
    )
    tokens = reply.halu["tokens"]
    text = reply.choices[0].message.content
    assert text[tokens[0]["start"] : tokens[0]["stop"]] == tokens[0]["text"]
    look = tokens[0]["evidence"]["look"][0]
    assert len(look["values"]) == look["rows"] * look["columns"] == 64
    streamed = [
        token
        for chunk in client.chat.completions.create(
            **chat(scene, QUESTION), stream=True, extra_body={"halu": {"evidence": "map"}}
        )
        for token in (getattr(chunk, "halu", None) or {}).get("tokens", ())
    ]
    assert [token["evidence"]["entropy"] for token in streamed] == [
        token["evidence"]["entropy"] for token in tokens
    ]


def test_a_conversation_goes_on(client: Any, scene: Any) -> None:
    first = chat(scene, QUESTION)["messages"]
    messages = [
        {"role": "developer", "content": "Answer briefly."},
        *first,
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
        {"role": "user", "content": "Is there a cat?"},
    ]
    reply = client.chat.completions.create(model="tiny-llava", messages=messages)
    assert reply.choices[0].message.content
    assert reply.usage.prompt_tokens_details.image_tokens == 64


def test_requests_as_other_apps_write_them(client: Any, scene: Any) -> None:
    url = {"url": uri(scene, "JPEG")}  # Open WebUI leaves `detail` out, some send the bare address
    for address in (url, {**url, "detail": "low"}, {**url, "detail": "original"}, url["url"]):
        content = [
            {"type": "image_url", "image_url": address},
            {"type": "text", "text": QUESTION},
        ]
        reply = client.chat.completions.create(
            model="tiny-llava",
            messages=[{"role": "user", "content": content}],
            frequency_penalty=0,
            presence_penalty=0,
            user="somebody",
            extra_body={"chat_id": "x", "halu": None},
        )
        assert reply.choices[0].message.content


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny-llava"]
    assert client.models.retrieve("tiny-llava").owned_by == "halu"
    assert client.models.retrieve("tiny-llava@vcd").id == "tiny-llava@vcd"
    for name in ("gpt-4", "tiny-llava@vcdd", "tiny-llava@vcd+nothing"):
        with pytest.raises(openai.NotFoundError) as raised:
            client.models.retrieve(name)
        assert raised.value.code == "model_not_found"


BAD = [
    ({"model": "gpt-4"}, "NotFoundError", "model", "model_not_found"),
    ({"temperature": 3}, "BadRequestError", "temperature", "invalid_value"),
    ({"n": 99}, "BadRequestError", "n", "invalid_value"),
    ({"max_tokens": 10**6}, "BadRequestError", "max_tokens", "invalid_value"),
    ({"max_tokens": 4, "max_completion_tokens": 5}, "BadRequestError", None, "invalid_value"),
    ({"top_logprobs": 3}, "BadRequestError", None, "invalid_value"),
    ({"stop": ["a"] * 5}, "BadRequestError", "stop", "invalid_value"),
    ({"messages": []}, "BadRequestError", "messages", "invalid_value"),
    ({"logit_bias": {"5": 1}}, "BadRequestError", "logit_bias", "invalid_value"),
    (
        {"response_format": {"type": "json_object"}},
        "BadRequestError",
        "response_format",
        "invalid_value",
    ),
    (
        {"extra_body": {"halu": {"strategy": "vdc"}}},
        "BadRequestError",
        "halu.strategy",
        "unknown_strategy",
    ),
    (
        {"extra_body": {"halu": {"stategy": "vcd"}}},
        "BadRequestError",
        "halu.stategy",
        "unknown_field",
    ),
    (
        {"extra_body": {"halu": {"strategy": "vcd", "params": {"alpha": 99}}}},
        "BadRequestError",
        "halu.params.alpha",
        "invalid_value",
    ),
    (
        {"extra_body": {"halu": {"strategy": "vcd", "params": {"alfa": 1}}}},
        "BadRequestError",
        "halu.params.alfa",
        "unknown_parameter",
    ),
    (
        {"extra_body": {"halu": {"detectors": ["nobody"]}}},
        "BadRequestError",
        "halu.detectors",
        "unknown_detector",
    ),
    ({"model": "tiny-llava@vdc"}, "BadRequestError", "model", "unknown_strategy"),
    ({"model": "tiny-llava@vcd"}, "BadRequestError", "model", None),
    ({"model": "tiny-llava@"}, "BadRequestError", "model", "invalid_value"),
    (
        {"extra_headers": {"x-halu-strategy": "vdc"}},
        "BadRequestError",
        "x-halu-strategy",
        "unknown_strategy",
    ),
    ({"max_completion_tokens": 10**6}, "BadRequestError", "max_completion_tokens", None),
]


@pytest.mark.parametrize(("options", "kind", "param", "code"), BAD)
def test_mistakes_are_told(
    client: Any, options: dict[str, Any], kind: str, param: str | None, code: str | None
) -> None:
    with pytest.raises(getattr(openai, kind)) as raised:
        client.chat.completions.create(**{**chat("Hello?"), **options})
    error = raised.value
    assert error.param == param
    assert code is None or error.code == code
    assert error.type in ("invalid_request_error", "not_found_error")
    assert error.response.headers["x-should-retry"] == "false"
    assert error.request_id.startswith("req-")


@pytest.mark.parametrize(
    ("part", "where", "said"),
    [
        ({"type": "video"}, "", "only parts of type text and image_url are taken"),
        ({}, "", "only parts of type text and image_url are taken"),
        ({"type": "text"}, ".text", "Field required"),
        ({"type": "text", "text": 5}, ".text", "valid string"),
        ({"type": "image_url"}, ".image_url", "Field required"),
        ({"type": "image_url", "image_url": {"url": ""}}, ".image_url.url", "at least 1"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}, ".image_url", ""),
        ({"type": "image_url", "image_url": "https://example.com/a.png"}, ".image_url", ""),
    ],
)
def test_a_part_that_cannot_be_taken(served: Any, part: Any, where: str, said: str) -> None:
    content = [{"type": "text", "text": QUESTION}, part]
    reply = served.chat("", messages=[{"role": "user", "content": content}])
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["param"] == f"messages.0.content.1{where}"
    assert said in error["message"]
    assert "union" not in error["message"]


def test_a_mistake_in_a_comparison_is_told_by_its_place(served: Any, scene: Any) -> None:
    for arm, param in (("vdc", "strategy"), ({"strategy": "vcd", "params": {"a": 1}}, "params.a")):
        body = chat(scene, QUESTION, strategies=["greedy", arm])
        error = served.post("/v1/compare", **body).json()["error"]
        assert error["param"] == f"strategies.1.{param}"


EMPTY = [
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": " \n"}],
    [{"role": "user", "content": "Hello?"}, {"role": "user", "content": ""}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": ""}],
]


@pytest.mark.parametrize("messages", EMPTY)
def test_an_empty_question_is_refused(served: Any, messages: Any) -> None:
    reply = served.chat("", messages=messages)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["message"] == "The question is empty."
    assert error["param"] == f"messages.{len(messages) - 1}.content"


def test_a_picture_alone_is_a_question_after_words(served: Any, scene: Any) -> None:
    shown = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": uri(scene)}}]}
    assert served.chat("", messages=[shown]).status_code == 400
    told = [{"role": "system", "content": "Name what you see."}, shown]
    assert served.chat("", messages=told, max_tokens=2).status_code == 200
    asked = [shown | {"content": [*shown["content"], {"type": "text", "text": QUESTION}]},
             {"role": "assistant", "content": "Yes."}]  # fmt: skip
    assert served.chat("", messages=asked, max_tokens=2).status_code == 200


@pytest.mark.parametrize("count", [0, 2])
def test_a_chosen_token_is_spelled_as_among_the_top_ones(
    client: Any, scene: Any, count: int
) -> None:
    reply = client.chat.completions.create(
        **chat(scene, QUESTION), logprobs=True, top_logprobs=count, max_tokens=3
    )
    said = reply.choices[0].logprobs.content
    for one in said:
        assert bytes(one.bytes).decode() == one.token
        assert len(one.top_logprobs) == count
        if count:  # greedy: the first
            top = one.top_logprobs[0]
            assert (one.token, one.bytes, one.logprob) == (top.token, top.bytes, top.logprob)
    spelled = "".join(one.token for one in said)
    assert spelled.strip() == reply.choices[0].message.content.strip()
    assert spelled.startswith(" ")


def test_a_strategy_that_is_mistyped_is_not_ignored(client: Any, scene: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="Did you mean vcd"):
        client.chat.completions.create(**{**chat(scene, QUESTION), "model": "tiny-llava@vcdd"})
    with pytest.raises(openai.BadRequestError, match="Two strategies"):
        client.chat.completions.create(
            **{**chat(scene, QUESTION), "model": "tiny-llava@vcd"},
            extra_body={"halu": {"strategy": "vhr"}},
        )


def test_async(served: Any, scene: Any) -> None:
    async def run() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            whole = await client.chat.completions.create(**chat(scene, QUESTION))
            stream = await client.chat.completions.create(**chat(scene, QUESTION), stream=True)
            said = [choice.delta.content or "" async for c in stream for choice in c.choices]
            return whole.choices[0].message.content, "".join(said)

    whole, said = asyncio.run(run())
    assert whole == said


def test_a_busy_server_is_tried_again(scene: Any) -> None:
    with live(max_requests=1) as server:
        server.site.house.inside = 1
        waits: list[float] = []

        class Free(httpx2.HTTPTransport):
            def handle_request(self, request: Any) -> Any:
                reply = super().handle_request(request)
                if reply.status_code == 503:
                    waits.append(float(reply.headers["retry-after-ms"]))
                    server.site.house.inside = 0
                return reply

        http = httpx2.Client(transport=Free(), trust_env=False)
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=http) as client:
            reply = client.chat.completions.create(**chat(scene, QUESTION))
        assert reply.choices[0].message.content
        assert len(waits) == 1
        assert 0 < waits[0] <= 100_000
