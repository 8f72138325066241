"""How to install an optional part of Trimtab, said so that it works for the way in which this Trimtab was installed."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import unquote, urlsplit


def install(extra: str) -> str:
    """A command line: from the checkout or wheel that is installed, or from an index where it came from one."""
    try:
        origin = distribution("trimtab").read_text("direct_url.json")
    except PackageNotFoundError:  # run from a folder that is on the path
        return f"pip install -e '.[{extra}]' (in Trimtab's checkout)"
    if not origin:
        return f"pip install 'trimtab[{extra}]'"
    where = json.loads(origin)
    url = str(where.get("url", ""))
    if "dir_info" not in where:
        return f"pip install 'trimtab[{extra}] @ {url}'"
    editable = "-e " if where["dir_info"].get("editable") else ""
    return f"pip install {editable}'{unquote(urlsplit(url).path)}[{extra}]'"


def lacking(module: str | None, extra: str) -> str:
    """The message for a module that is not installed: what it belongs to, and how to get it."""
    return f"needs {module}, which is not installed: it comes with the extra {extra!r}: {install(extra)}"
