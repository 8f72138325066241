"""Where models are kept that were converted on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str = "models") -> Path:
    """A folder of TRIMTAB_CACHE, else of XDG's cache folder."""
    chosen = os.environ.get("TRIMTAB_CACHE")
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab"
    return base / kind
