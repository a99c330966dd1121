"""What the service costs: time per streamed token against the engine alone at batch 1, as a ratio
in one run; and how fast a refusal comes.

    python benchmarks/service_overhead.py
    python benchmarks/service_overhead.py --model random --rounds 5

`tiny-llava` takes so little for a token that the ratio is the worst there is; `random` is the
random LLaVA of 300 M parameters that benchmarks/decode.py measures on a CPU, saved to a folder for
the time of the run and served from there.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import httpx2
from service_process import DESCRIBE, chat, percentile, picture_uri, serving, written
from shapes import RANDOM, source

import halu
from halu.service.intake import from_data_uri


def _gap(times: list[float]) -> float:
    """Mean seconds from one token to the next; the first few, which warm up, do not count."""
    late = times[3:]
    return (late[-1] - late[0]) / (len(late) - 1)


def engine(vlm: Any, picture: Any, tokens: int) -> float:
    """Seconds per token of the engine in this process."""
    times = []
    for event in vlm.stream(
        picture, DESCRIBE, max_new_tokens=tokens, temperature=2.0, repetition_penalty=0.1
    ):
        times.extend([time.perf_counter()] * bool(event.tokens))
    return _gap(times)


def service(http: Any, url: str, model: str, uri: str, tokens: int) -> float:
    """Seconds per token as a client sees them in a stream."""
    body = chat(
        uri,
        DESCRIBE,
        model=model,
        max_tokens=tokens,
        seed=0,
        temperature=2.0,
        repetition_penalty=0.1,
        stream=True,
    )
    times = []
    with http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
    times = times[1:]  # the first has only a role
    return _gap(times)


def refusal(http: Any, url: str, model: str, uri: str) -> float:
    """Seconds to the first byte of a refusal."""
    start = time.perf_counter()
    body = chat(uri, DESCRIBE, model=model, temperature=99)
    with http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 400
        return time.perf_counter() - start


def measured(model: str, rounds: int, tokens: int) -> tuple[list[tuple[float, float]], list[float]]:
    """Seconds per token of engine and service in turn, and of refusals; one round warms up."""
    uri, name = picture_uri(), Path(model).name
    picture = from_data_uri(uri, 2**24)
    pairs = []
    vlm = halu.load(model)
    with serving("-m", model) as server, httpx2.Client(trust_env=False, timeout=300) as http:
        for _ in range(rounds + 1):
            own = engine(vlm, picture, tokens)
            pairs.append((own, service(http, server.url, name, uri, tokens)))
        return pairs[1:], [refusal(http, server.url, name, uri) for _ in range(100)]


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description="What the service costs.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--model", default="tiny-llava", help=f"a name or folder, or {RANDOM}")
    parser.add_argument("--out")
    args = parser.parse_args()
    with source(args.model) as model:
        pairs, refused = measured(model, args.rounds, args.tokens)
    result = {
        "what": f"{args.model}, {args.rounds} rounds of {args.tokens} tokens, batch 1",
        "ms a token, engine": round(1000 * statistics.median(own for own, _ in pairs), 3),
        "ms a token, service": round(1000 * statistics.median(its for _, its in pairs), 3),
        "service / engine": round(statistics.median(its / own for own, its in pairs), 3),
        "first byte of a refusal, s": {
            "median": percentile(refused, 0.5),
            "p99": percentile(refused, 0.99),
        },
    }
    written(result, args.out)


if __name__ == "__main__":
    main()
