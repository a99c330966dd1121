"""Load far above capacity: how much is answered, what is refused, how fast, what becomes of those
let in, and of memory.

    python benchmarks/service_load.py --seconds 120 --times 4

Runs a server with so many places and as many clients as `--times` that number, each asking again as
soon as it has its answer, a mix of strategies, streamed and not. Before and after, one client alone
asks the same mix, one request after another: answers a second are reported relative to its.
"""

import argparse
import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx2
from service_process import DESCRIBE, Server, chat, percentile, picture_uri, serving, written

MIX = ("greedy", "vcd", "vhr", "ritual", "vhr+ritual")


@dataclass
class Seen:
    """What clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused: list[float] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    broken: int = 0
    memory: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.answered) / self.seconds


async def client(number: int, http: Any, url: str, uri: str, end: float, seen: Seen) -> None:
    """Asks until the end, once at least."""
    asked = 0
    while not asked or time.monotonic() < end:
        asked += 1
        body = chat(
            uri,
            DESCRIBE,
            max_tokens=24,
            seed=asked,
            stream=bool((number + asked) % 2),
            halu={"strategy": MIX[(number + asked) % len(MIX)]},
        )
        start = time.monotonic()
        async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            first = time.monotonic() - start
            text = (await reply.aread()).decode()
        seen.statuses[reply.status_code] += 1
        if reply.status_code == 503:
            seen.refused.append(first)
            await asyncio.sleep(int(reply.headers["retry-after-ms"]) / 1000 / 4)
        elif reply.status_code == 200:
            seen.answered.append(time.monotonic() - start)
            whole = "[DONE]" in text if body["stream"] else '"finish_reason"' in text
            seen.broken += not whole


async def watch(server: Server, end: float, seen: Seen) -> None:
    """Memory, once a second."""
    while not seen.memory or time.monotonic() < end:
        seen.memory.append(server.memory_mb)
        await asyncio.sleep(1)


async def load(server: Server, clients: int, seconds: float) -> Seen:
    """The clients and the watch, together."""
    seen, uri, start = Seen(), picture_uri(), time.monotonic()
    end = start + seconds
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(trust_env=False, timeout=300, limits=limits) as http:
        jobs = [client(n, http, server.url, uri, end, seen) for n in range(clients)]
        await asyncio.gather(watch(server, end, seen), *jobs)
    seen.seconds = time.monotonic() - start
    return seen


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description="Load above capacity.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--times", type=int, default=4, help="clients for each place")
    parser.add_argument("--places", type=int, default=16)
    parser.add_argument("--out")
    args = parser.parse_args()
    with serving("--set", f"max_requests={args.places}") as server:
        asyncio.run(load(server, args.places, min(10.0, args.seconds)))  # caches fill
        before = asyncio.run(load(server, 1, args.seconds / 8))
        seen = asyncio.run(load(server, args.places * args.times, args.seconds))
        after = asyncio.run(load(server, 1, args.seconds / 8))
    fifth = max(1, len(seen.memory) // 5)
    result = {
        "what": f"{args.places * args.times} clients on {args.places} places, {args.seconds:g} s",
        "answers a second / one request after another": round(
            2 * seen.rate / (before.rate + after.rate), 2
        ),
        "statuses": dict(sorted(seen.statuses.items())),
        "answers cut off": seen.broken,
        "first byte of a refusal, s": {
            "median": percentile(seen.refused, 0.5),
            "p99": percentile(seen.refused, 0.99),
        },
        "answer, s": {
            "median": percentile(seen.answered, 0.5),
            "p99": percentile(seen.answered, 0.99),
        },
        "memory, MB": {
            "first fifth, most": round(max(seen.memory[:fifth]), 1),
            "last fifth, most": round(max(seen.memory[-fifth:]), 1),
        },
    }
    written(result, args.out)


if __name__ == "__main__":
    main()
