"""Settings from flags, environment and file; the command; what there is to look at."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_settings")
pytest.importorskip("prometheus_client")

from live import chat, live, until

from halu.errors import BadInput, HaluError, Unknown
from halu.service.deployment import deployment
from halu.service.serving import Server
from halu.service.settings import Settings, as_toml, read_settings
from halu.service.shelf import dealt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_flags_win_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: Any
) -> None:
    file = tmp_path / "halu.toml"
    file.write_text('port = 1\nmax_requests = 2\nmodels = ["tiny-qwen"]\nmax_rows = 3\n')
    monkeypatch.setenv("HALU_MAX_REQUESTS", "20")
    monkeypatch.setenv("HALU_PORT", "10")
    monkeypatch.setenv("HALU_REMOTE_HOSTS", "a.example, b.example:8443")
    found = read_settings({"port": 100}, file)
    assert (found.port, found.max_requests, found.max_rows) == (100, 20, 3)
    assert found.models == ("tiny-qwen",)
    assert found.remote_hosts == ("a.example", "b.example:8443")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("prot = 1", "prot"),
        ("port = 99999", "port"),
        ("port = ", "cannot be read"),
        ('models = "x"\nhost = 5', "host"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "halu.toml"
    file.write_text(text)
    with pytest.raises(BadInput, match=match):
        read_settings({}, file)


def test_mistakes_in_flags() -> None:
    with pytest.raises(Unknown, match="Did you mean max_rows"):
        read_settings({"max_row": 1})
    with pytest.raises(BadInput, match="no file"):
        read_settings({}, Path("/nowhere"))
    with pytest.raises(BadInput, match="remote_networks"):
        read_settings({"remote_networks": ["10.0.0.0/8"]})
    with pytest.raises(BadInput, match=r"10\.0\.0\.0/8"):
        deployment(read_settings({"remote_hosts": ["a"], "remote_networks": ["ten"]}))
    for params in (
        {"vcdd": {}},
        {"vcd": {"alfa": 1}},
        {"vcd": {"alpha": 99}},
        {"paint": {}},
        {"vhr+vcd": {}},
    ):
        with pytest.raises(HaluError):
            deployment(read_settings({"strategy_params": params}))


def test_what_is_printed_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    settings = read_settings(
        {"models": ["tiny-qwen"], "strategy_params": {"vcd": {"alpha": 0.5}}, "memory_gib": 2}
    )
    text = as_toml(settings)
    tomllib.loads(text)
    file = tmp_path / "halu.toml"
    file.write_text(text)
    assert read_settings({}, file) == settings
    for name, field in Settings.model_fields.items():
        assert name in text
        assert field.description


def test_the_command(halu: Any, tmp_path: Path) -> None:
    code, out, _ = halu("serve", "--print-config", "-m", "tiny-qwen", "--set", "max_rows=7")
    assert code == 0
    assert tomllib.loads(out)["max_rows"] == 7
    code, out, err = halu("serve", "--set", "max_rows=0")
    assert code == 2
    assert err.startswith("halu: Setting max_rows")
    assert len(err.splitlines()) == 1
    code, _, err = halu("serve", "--host", "0.0.0.0")
    assert code == 2
    assert "--new-key" in err
    file = tmp_path / "keys"
    code, key, _ = halu("serve", "--new-key", "ann", "--api-key-file", file)
    assert code == 0
    assert key.strip().startswith("halu-")
    assert file.read_text().startswith("ann ")


def test_a_port_that_is_taken(halu: Any, served: Any) -> None:
    port = served.url.rpartition(":")[2]
    for options in (["--port", port], ["--port", "0", "--set", f"metrics_port={port}"]):
        assert f"Cannot listen on 127.0.0.1 port {port}" in refused(halu, *options)


def refused(halu: Any, *options: object) -> str:
    """What `halu serve` says of options that cannot work, before it listens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "run", lambda *_, **__: pytest.fail("it listens"))
        code, out, err = halu("serve", *options)
    assert (code, out) == (2, "")
    assert err.startswith("halu: ")
    assert len(err.splitlines()) == 1
    return str(err)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["-m", "tiny-lava"], "Did you mean tiny-llava"),
        (["-m", "tiny-llava", "-m", "tiny-kwen"], "Did you mean tiny-qwen"),
        (["-m", "FOLDER"], "has no config.json"),
        (["-m", "FOLDER/nowhere"], "Unknown model"),
        (["-m", "FOLDER/foreign"], "'bert'"),
        (["--device", "cuda:99"], "Device 'cuda:99' is not available"),
        (["--device", "abacus"], "Device 'abacus' is not available"),
        (["--set", "dtype=roman"], "Unknown dtype 'roman'"),
        (["--graphs", "--device", "cpu"], "CUDA graphs need a GPU"),
        (["--set", "graphs=true", "--device", "cpu"], "CUDA graphs need a GPU"),
        (["--set", "strategy=vcdd"], "Did you mean vcd"),
        (["--set", "strategy=vhr+vhr"], "twice"),
        (["--set", "listed_strategies=vcd,vhrr"], "Did you mean vhr"),
        (["--api-key-file", "FOLDER"], "Keys cannot be read"),
        (["--api-key-file", "FOLDER/nowhere"], "Keys cannot be read"),
        (["--api-key-file", "FOLDER/noise"], "it is no text"),
        (["--config", "FOLDER"], "There is no file"),
        (["--config", "FOLDER/noise"], "cannot be read"),
        (["--set", "log_file=FOLDER/no/such.log"], "Logs cannot go"),
        (["--host", "300.0.0.1", "--api-key-file", "FOLDER/keys"], "Cannot listen"),
        (["--set", "metrics_port=9", "--set", "metrics_host=300.0.0.1"], "Cannot listen"),
    ],
)
def test_what_cannot_work_is_refused_before_the_server_listens(
    halu: Any, tmp_path: Path, options: list[str], match: str
) -> None:
    (tmp_path / "noise").write_bytes(bytes(range(128, 256)))
    (tmp_path / "keys").write_text(f"ann {'0' * 64}\n")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "bert"}')
    given = [option.replace("FOLDER", str(tmp_path)) for option in options]
    assert match in refused(halu, *given)


def test_the_engine_is_told_what_is_set(monkeypatch: Any) -> None:
    from halu.engine import load
    from halu.service import deployment as parts

    told: dict[str, Any] = {}

    def loading(source: str, *, graphs: bool, **options: Any) -> Any:
        told.update(options, graphs=graphs)
        return load(source, **options)

    monkeypatch.setattr(parts, "load", loading)
    monkeypatch.setattr(parts, "check_models", lambda settings: None)
    for given, graphs in (({}, False), ({"graphs": True}, True)):
        with live(device="cpu", dtype="float32", feature_cache_mib=3, **given):
            assert told == {
                "device": "cpu",
                "dtype": "float32",
                "graphs": graphs,
                "feature_cache_mib": 3,
            }


def test_an_operators_strategy_is_used_where_a_request_names_none(scene: Any) -> None:
    with live(strategy="vhr", listed_strategies=("vcd", "vhr+ritual")) as server:
        for halu_field, name in (({}, "vhr"), ({"strategy": "greedy"}, "greedy")):
            reply = server.chat(scene, "Is there a dog?", max_tokens=2, halu=halu_field)
            assert reply.json()["halu"]["strategy"]["name"] == name
        words_alone = server.chat("Hello?", max_tokens=2).json()
        assert words_alone["halu"]["strategy"]["name"] == "greedy"
        listed = [one["id"] for one in server.get("/v1/models").json()["data"]]
    assert listed == ["tiny-llava", "tiny-llava@vcd", "tiny-llava@vhr+ritual"]


def test_models_are_dealt_to_devices(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    found = dealt(["a/b", str(folder), "c"], ["cuda:0", "cuda:1"])
    assert [model.name for model in found["cuda:0"]] == ["a/b", "c"]
    assert [model.name for model in found["cuda:1"]] == ["my-model"]


def test_lists_and_state(served: Any) -> None:
    strategies = served.get("/v1/strategies").json()["data"]
    assert {"vcd", "vhr", "greedy"} <= {one["name"] for one in strategies}
    assert all(one["params"]["type"] == "object" for one in strategies)
    assert served.get("/health").json() == {"status": "ok"}
    assert served.get("/ready").json() == {"status": "ok"}
    assert set(served.get("/version").json()) == {"version", "torch", "transformers", "python"}
    page = served.get("/docs")
    assert "/v1/chat/completions" in page.text
    for text in (page.text, served.get("/").text):
        assert "http://" not in text.replace("http://127.0.0.1", "")
        assert "https://" not in text
    paths = served.get("/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/compare", "/v1/detect", "/v1/models"} <= set(paths)


def test_metrics(scene: Any) -> None:
    with live() as server:
        server.chat(scene, "Is there a dog?", halu={"strategy": "vcd"}, max_tokens=4)
        server.chat("Hello?", temperature=99)
        text = server.get("/metrics").text
    labels = '{backend="hf",model="tiny-llava",strategy="vcd"}'
    for name in (
        "time_to_first_token_seconds_count",
        "e2e_request_latency_seconds_count",
        "request_queue_time_seconds_count",
        "request_prefill_time_seconds_count",
        "request_decode_time_seconds_count",
    ):
        assert f"halu_{name}{labels} 1.0" in text
    assert f"halu_generation_tokens_total{labels}" in text
    assert 'halu_requests_refused_total{status="400"} 1.0' in text
    assert "halu_num_requests_running 0.0" in text
    assert 'finished_reason="' in text


NAMES = {
    "counter": (
        "prompt_tokens generation_tokens request_success prefix_cache_queries prefix_cache_hits"
        " extra_forward_passes image_rejected flagged_claims"
    ),
    "gauge": "num_requests_running num_requests_waiting kv_cache_usage_perc",
    "histogram": (
        "time_to_first_token_seconds time_per_output_token_seconds e2e_request_latency_seconds"
        " request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds"
        " image_fetch_seconds detector_seconds"
    ),
}
"""Of vLLM's names those that dashboards show, and what only such a service has."""


@pytest.mark.parametrize("kind", NAMES)
def test_metrics_have_the_names_that_dashboards_know(served: Any, kind: str) -> None:
    text = served.get("/metrics").text
    for name in NAMES[kind].split():
        name += "_total" if kind == "counter" else ""
        assert f"# TYPE halu_{name} {kind}" in text


def test_the_beginnings_that_prompts_share_are_counted(scene: Any) -> None:
    with live() as server:
        (worker,) = server.site.workers.values()
        worker.shelf.loaded["tiny-llava"].adapter.runner.worth = 1
        values = server.site.metrics.registry.get_sample_value

        def counted(strategy: str) -> tuple[float, float, int]:
            """Queries and hits so far, and the prompt's tokens."""
            field = {"strategy": strategy}
            reply = server.chat(scene, "Is there a dog?", max_tokens=2, halu=field).json()
            labels = {"model": "tiny-llava", "backend": "hf"}
            names = ("halu_prefix_cache_queries_total", "halu_prefix_cache_hits_total")
            until(lambda: not worker.running)
            queries, hits = (values(name, labels) for name in names)
            return queries, hits, reply["usage"]["prompt_tokens"]

        queries, hits, tokens = counted("greedy")
        assert (queries, hits) == (tokens, 0)
        queries, hits, tokens = counted("vcd")
        assert queries == 3 * tokens
        assert 0 < hits < tokens


def test_metrics_on_a_port_of_their_own() -> None:
    with live(metrics_port=9) as server:
        assert server.get("/metrics").status_code == 404


def test_that_port_is_for_this_machine_unless_told_otherwise(tmp_path: Path) -> None:
    from halu.service.keys import new_key
    from halu.service.serving import _metrics_server

    keys = tmp_path / "keys"
    new_key(keys, "ann")
    for more, address in (({}, "127.0.0.1"), ({"metrics_host": "0.0.0.0"}, "0.0.0.0")):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        open_to_all = {"host": "0.0.0.0", "api_key_file": keys, "metrics_port": port}
        server = _metrics_server(deployment(read_settings({**open_to_all, **more})))
        assert server is not None
        assert server.server_address == (address, port)
        server.shutdown()
        server.server_close()


def test_the_number_of_strategy_labels_is_bounded() -> None:
    from halu.service.metrics import KNOWN_STRATEGIES, Metrics

    metrics = Metrics()
    for number in range(KNOWN_STRATEGIES):
        assert metrics.labels("m", str(number))["strategy"] == str(number)
    assert metrics.labels("m", "one more")["strategy"] == "other"
    assert metrics.labels("m", "0")["strategy"] == "0"


def test_other_routes_answer_in_the_same_form(served: Any) -> None:
    import httpx2

    for method, path, status, code in (
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/nothing", 404, "not_found"),
    ):
        reply = httpx2.request(method, served.url + path, trust_env=False)
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert reply.json()["error"]["code"] == code
    reply = httpx2.post(
        f"{served.url}/v1/chat/completions",
        content=json.dumps(chat("Hello?")),
        headers={"content-type": "application/x-www-form-urlencoded"},  # as curl -d sends it
        trust_env=False,
    )
    assert reply.status_code == 400
    assert "content-type: application/json" in reply.json()["error"]["message"]
    body = chat("Hello?")
    del body["model"]
    reply = served.post("/v1/chat/completions", **body)
    assert reply.json()["error"]["param"] == "model"
