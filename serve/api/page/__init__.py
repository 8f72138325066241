"""The page at `/`: its files, and how they are served.

The page itself asks to be looked at again each time; what it names lies under a folder called by the hash of all the
files, so that a browser keeps it for good and never mixes two versions. No script or style stands in the page: the
policy below would not run it, nor let a string become HTML.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.routing import Route

from serve.errors import NotFound

_FOLDER = Path(__file__).parent
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join([
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self'",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    "require-trusted-types-for 'script'", "trusted-types 'none'",
])  # fmt: skip
GUARDS = {  # beside X-Content-Type-Options, which every answer has
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def address(name: str) -> str:
    """The path of one of the page's files, for a page at the top."""
    return f"page/{_version()}/{name}"


def add_routes(app: FastAPI) -> None:
    """Put the page on the application; its files are read when somebody first looks."""
    app.router.routes.append(Route("/", _page, methods=["GET"]))
    app.router.routes.append(Route("/page/{version}/{name}", _part, methods=["GET"]))


async def _page(request: Request) -> Response:
    tag = f'W/"{_version()}"'  # weak: it stands for the page compressed and not
    headers = {**GUARDS, "cache-control": "no-cache", "etag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return _sent(request, "index.html", headers)


async def _part(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _files() or request.path_params["version"] != _version():
        raise NotFound(f"no GET {request.url.path} here", code="path_not_found")
    return _sent(request, name, {**GUARDS, "cache-control": "public, max-age=31536000, immutable"})


def _sent(request: Request, name: str, headers: dict[str, str]) -> Response:
    zipped = "gzip" in request.headers.get("accept-encoding", "")
    headers |= {"vary": "accept-encoding"} | ({"content-encoding": "gzip"} if zipped else {})
    return Response(_files()[name][zipped], headers=headers, media_type=_TYPES[Path(name).suffix])


@cache
def _files() -> dict[str, tuple[bytes, bytes]]:
    """Each file as it is and compressed, the page with its version filled in."""
    out = {}
    for path in _sources():
        body = path.read_bytes().replace(b"{version}", _version().encode())
        out[path.name] = (body, gzip.compress(body, mtime=0))
    return out


@cache
def _version() -> str:
    whole = hashlib.sha256()
    for path in _sources():
        whole.update(path.name.encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:16]


def _sources() -> list[Path]:
    return sorted(path for path in _FOLDER.iterdir() if path.suffix in _TYPES)
