"""The folder of what was found out about models, for strategies and for detectors."""

import os
from pathlib import Path


def folder() -> Path:
    """Under $HALU_CACHE, else the user's cache folder."""
    base = os.environ.get("HALU_CACHE") or os.environ.get("XDG_CACHE_HOME")
    own = Path(base) if base else Path.home() / ".cache"
    return (own if os.environ.get("HALU_CACHE") else own / "halu") / "calibration"
