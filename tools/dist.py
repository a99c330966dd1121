"""Build sdist and wheel of the last commit into `dist/`, the same bytes wherever it is built.

    python tools/dist.py [--out DIR]

Only what is committed is packed, with the commit's time (or that of SOURCE_DATE_EPOCH) on every
file. setuptools does so for the wheel; the sdist is packed anew, without the builder's name and
clock. Both depend on the release of setuptools, which `constraints.txt` pins.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def exported(folder: Path) -> Path:
    """The files of the last commit, in `folder`."""
    packed = subprocess.run(
        ["git", "-C", ROOT, "archive", "--format=tar", "HEAD"], stdout=subprocess.PIPE, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def committed() -> int:
    """When the last commit was made, in seconds, or what SOURCE_DATE_EPOCH says."""
    if told := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(told)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def build(tree: Path, out: Path, epoch: int) -> list[Path]:
    """Builds the sdist of a tree, and the wheel from that; both dated `epoch`."""
    for path in [tree, *tree.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(tree)]
    env = os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, umask=0o022)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{done.stderr}")
    (source,) = out.glob("halu-*.tar.gz")
    pack_again(source, epoch)
    return sorted(out.glob("halu-*"))


def pack_again(source: Path, epoch: int) -> None:
    """Packs an sdist in order of its names, with one time and no owner."""
    with tarfile.open(source) as old:
        entries = [(entry, old.extractfile(entry)) for entry in old.getmembers() if entry.isfile()]
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new:
            for entry, data in sorted(entries, key=lambda pair: pair[0].name):
                fresh = tarfile.TarInfo(entry.name)
                fresh.size, fresh.mtime, fresh.mode = entry.size, epoch, 0o644
                new.addfile(fresh, data)
    with source.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed:
        packed.write(plain.getvalue())


def main() -> int:
    """Builds, and prints what was built with its SHA-256."""
    parser = argparse.ArgumentParser(description="Build sdist and wheel of the last commit.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("halu-*"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        built = build(exported(Path(folder)), out, committed())
    for path in built:
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
