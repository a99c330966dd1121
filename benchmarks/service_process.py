"""`halu serve` as a process of its own, for the benchmarks of the service."""

import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import torch

import halu

QUESTION = "Is there a dog in the image?"
DESCRIBE = "Please describe this image in detail."


@dataclass(frozen=True)
class Server:
    """A running server: where it is, and its process."""

    url: str
    process: subprocess.Popen[str]

    @property
    def memory_mb(self) -> float:
        """Resident memory now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    @property
    def open_files(self) -> int:
        """Files, sockets and pipes that it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = httpx2.get(f"{self.url}/metrics", trust_env=False, timeout=30).text
        found = [line for line in text.splitlines() if line.startswith(f"halu_{name}")]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A server with these options of `halu serve`, ready; it is drained at the end."""
    command = [sys.executable, "-m", "halu", "serve", "--port", "0", *options]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file:
            process = subprocess.Popen(command, stderr=file, text=True)
        try:
            url = _address(log, process)
            while httpx2.get(f"{url}/ready", trust_env=False).status_code != 200:
                time.sleep(0.1)
            yield Server(url, process)
        finally:
            process.terminate()
            code = process.wait(timeout=120)
            assert code == 0, f"the server ended with {code}"


def _address(log: Path, process: subprocess.Popen[str]) -> str:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            if "in a browser" in line:
                return line.split()[-1].rstrip("/")
        time.sleep(0.1)
    raise SystemExit(log.read_text())


def picture_uri(seed: int = 3, side: int = 112) -> str:
    """A drawn scene as a data URI."""
    import base64
    import io

    from PIL import Image

    from halu.scenes import draw

    file = io.BytesIO()
    Image.fromarray(draw(seed, "test", side).image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def chat(uri: str | None, text: str, **more: Any) -> dict[str, Any]:
    """The body of a chat request."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if uri is not None:
        parts.insert(0, {"type": "image_url", "image_url": {"url": uri}})
    return {"model": "tiny-llava", "messages": [{"role": "user", "content": parts}], **more}


def percentile(values: list[float], share: float) -> float | None:
    """The value below which this share lies, rounded; none of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4)


def device() -> str:
    """What a server runs on that is told nothing else."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def written(result: dict[str, Any], out: str | None) -> None:
    """Prints a result with how it was made, and keeps it if a file is named."""
    script, *options = sys.argv
    made = {
        "command": shlex.join(["python", f"benchmarks/{Path(script).name}", *options]),
        "device": device(),
        "versions": {"torch": torch.__version__, "halu": halu.__version__},
    }
    text = json.dumps({**made, **result}, indent=2)
    print(text)
    if out:
        path = Path(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
