"""What the service costs: time per streamed token against the engine alone at batch 1, as a ratio
in one run; and how fast a refusal comes.

    python benchmarks/service_overhead.py
"""

import argparse
import statistics
import time
from typing import Any

import httpx2
from service_process import DESCRIBE, chat, percentile, picture_uri, serving, written

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


def service(http: Any, url: str, uri: str, tokens: int) -> float:
    """Seconds per token as a client sees them in a stream."""
    body = chat(
        uri,
        DESCRIBE,
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


def refusal(http: Any, url: str, uri: str) -> float:
    """Seconds to the first byte of a refusal."""
    start = time.perf_counter()
    with http.stream(
        "POST", f"{url}/v1/chat/completions", json=chat(uri, DESCRIBE, temperature=99)
    ) as reply:
        assert reply.status_code == 400
        return time.perf_counter() - start


def main() -> None:
    """Runs both in turn, several times, and prints."""
    parser = argparse.ArgumentParser(description="What the service costs.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--model", default="tiny-llava")
    parser.add_argument("--out")
    args = parser.parse_args()
    uri = picture_uri()
    picture = from_data_uri(uri, 2**24)
    vlm = halu.load(args.model)
    pairs = []
    with serving("-m", args.model) as server, httpx2.Client(trust_env=False, timeout=60) as http:
        for _ in range(args.rounds + 1):
            own = engine(vlm, picture, args.tokens)
            pairs.append((own, service(http, server.url, uri, args.tokens)))
        refused = [refusal(http, server.url, uri) for _ in range(100)]
    pairs = pairs[1:]
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
