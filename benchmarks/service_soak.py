"""Mixed good, bad, aborted and slow requests for a long time: statuses, and whether memory is flat.

python benchmarks/service_soak.py --minutes 20
"""

import argparse
import asyncio
import random
import time
from collections import Counter
from typing import Any

import httpx2
from service_process import DESCRIBE, QUESTION, Server, chat, picture_uri, serving, written

STRATEGIES = ("greedy", "vcd", "vhr", "ritual", "var", "beam", "vhr+ritual", "m3id", "dola")


async def good(http: Any, url: str, rng: random.Random) -> str:
    """An ordinary request."""
    uri = picture_uri(rng.randrange(50), rng.choice((112, 150, 224)))
    halu: dict[str, Any] = {"strategy": rng.choice(STRATEGIES)}
    body = chat(uri, rng.choice((QUESTION, DESCRIBE)), max_tokens=rng.randrange(1, 40), halu=halu)
    reply = await http.post(f"{url}/v1/chat/completions", json=body)
    return f"good {reply.status_code}"


async def bad(http: Any, url: str, rng: random.Random) -> str:
    """A request that must be refused."""
    bodies: list[dict[str, Any]] = [
        chat("data:image/png;base64,AAAA", QUESTION),
        chat("https://169.254.169.254/", QUESTION),
        chat(picture_uri()[: rng.randrange(40, 4000)], QUESTION),
        chat(None, QUESTION, temperature=99),
        chat(None, QUESTION, halu={"strategy": "nobody"}),
        chat(None, "x" * 20_000),
        {},
    ]
    reply = await http.post(f"{url}/v1/chat/completions", json=rng.choice(bodies))
    return f"bad {reply.status_code}"


async def aborted(http: Any, url: str, rng: random.Random) -> str:
    """A stream that the client leaves."""
    body = chat(picture_uri(), DESCRIBE, stream=True, max_tokens=200, temperature=1.5, n=2)
    async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
        async for _ in reply.aiter_lines():
            if rng.random() < 0.2:
                break
    return f"aborted {reply.status_code}"


async def slow(http: Any, url: str, rng: random.Random) -> str:
    """A client that sends its body drop by drop."""

    async def drops() -> Any:
        for _ in range(10):
            yield b" "
            await asyncio.sleep(0.1)
        yield b'{"model": "tiny-llava", "max_tokens": 2, "messages":'
        yield b' [{"role": "user", "content": "Hello?"}]}'

    headers = {"content-type": "application/json"}
    reply = await http.post(f"{url}/v1/chat/completions", content=drops(), headers=headers)
    return f"slow {reply.status_code}"


KINDS = (good, good, good, bad, aborted, slow)


async def client(number: int, http: Any, url: str, end: float, seen: Counter[str]) -> None:
    """Does one thing after another until the end."""
    rng = random.Random(number)
    while time.monotonic() < end:
        seen[await rng.choice(KINDS)(http, url, rng)] += 1


async def watch(server: Server, end: float, memory: list[float]) -> None:
    """Memory, each second."""
    while not memory or time.monotonic() < end:
        memory.append(server.memory_mb)
        await asyncio.sleep(1)


async def soak(server: Server, clients: int, seconds: float) -> tuple[Counter[str], list[float]]:
    """The clients and the watch, together."""
    seen: Counter[str] = Counter()
    memory: list[float] = []
    end = time.monotonic() + seconds
    async with httpx2.AsyncClient(trust_env=False, timeout=300) as http:
        jobs = [client(number, http, server.url, end, seen) for number in range(clients)]
        await asyncio.gather(watch(server, end, memory), *jobs)
    return seen, memory


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description="A long mixed run.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--out")
    args = parser.parse_args()
    with serving() as server:
        before = server.open_files
        seen, memory = asyncio.run(soak(server, args.clients, args.minutes * 60))
        time.sleep(2)
        left = server.metric("num_requests_running") + server.metric("num_requests_waiting")
        after = server.open_files
    tenths = [memory[len(memory) * i // 10 : len(memory) * (i + 1) // 10] for i in range(10)]
    result = {
        "what": f"{args.clients} clients, {args.minutes:g} minutes",
        "requests": dict(sorted(seen.items())),
        "running or waiting afterwards": left,
        "open files before and afterwards": [before, after],
        "memory by tenths of the time, most, MB": [round(max(one), 1) for one in tenths if one],
    }
    written(result, args.out)


if __name__ == "__main__":
    main()
