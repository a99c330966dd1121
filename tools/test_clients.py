"""Runs the tests of other clients against the service, LiteLLM's in an environment of its own.

    python tools/test_clients.py [pytest's arguments]

LiteLLM's pins rule out what the rest needs, and two of its releases were malicious
(BerriAI/litellm#24518): no extra brings it, one version is asked for, and only the process of the
client runs there. Where it cannot be had its test is skipped, and a line says why.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv-litellm"
WANTED = "litellm==1.102.4"


def main() -> None:
    """Makes the environment, or uses it, and runs the tests."""
    made = HOME / ".made"
    if not made.exists() or made.read_text(encoding="utf-8") != WANTED:
        why = make()
        if why:
            print(f"LiteLLM's test is skipped: {why}")
        else:
            made.write_text(WANTED, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "tests/test_service_clients.py", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)


def make() -> str:
    """Makes the environment; returns why it cannot be made, or nothing."""
    shutil.rmtree(HOME, ignore_errors=True)
    venv.create(HOME, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(HOME), "--disable-pip-version-check"]
    command = [*pip, "install", "--quiet", "--only-binary", ":all:", "--no-compile", WANTED]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip failed"]
    return lines[-1].strip() if done.returncode else ""


if __name__ == "__main__":
    main()
