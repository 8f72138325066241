"""Where an engine's API is, and what a connection to it needs beside the URL."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from serve.config import Engine

API = "/v1"
# A path that holds one of these is the whole base: …/v1beta/openai, …/api/paas/v4, Azure's …/openai/deployments/NAME.
_VERSIONED = re.compile(r"/(?:v\d+(?:\.\d+)?(?:(?:alpha|beta|preview)\d*)?|deployments)(?=/|$)")


@dataclass(frozen=True, slots=True)
class Addressing:
    """How an engine's URLs are to be read: the fields of `[engine.NAME]` that say so."""

    api_path: str | None = None  # between the URL and OpenAI's paths; None: API, or nothing where the URL is versioned
    api_version: str = ""  # the query parameter that Azure wants
    ca_file: str = ""  # a private CA's certificates, trusted beside the system's

    @classmethod
    def of(cls, spec: Engine) -> Addressing:
        """What the engine's configuration says."""
        return cls(spec.api_path, spec.api_version, spec.ca_file)

    def at(self, url: str, path: str) -> str:
        """The address of one of our paths ("/v1/models", "/health"; it may have a query) below an engine's URL."""
        if path.startswith(API + "/"):
            url, path = url + self._api(url), path[len(API) :]
        if not self.api_version:
            return url + path
        path, _, query = path.partition("?")
        kept = [pair for pair in query.split("&") if pair and not pair.startswith("api-version=")]
        return f"{url}{path}?{'&'.join([*kept, f'api-version={self.api_version}'])}"

    def _api(self, url: str) -> str:
        if self.api_path is not None:
            return self.api_path
        return "" if versioned(url) else API


PLAIN = Addressing()


@lru_cache(1024)
def versioned(url: str) -> bool:
    """Whether a URL's path names a version of an API, so that nothing is put between it and OpenAI's paths."""
    return _VERSIONED.search(urlsplit(url).path) is not None


def base(url: str, api_path: str | None = None) -> str:
    """A URL as it is configured, without what `at` adds again: …/v1 is the same as … ."""
    url = url.rstrip("/")
    short = url.removesuffix(API)
    return url if api_path is not None or versioned(short) else short.rstrip("/")
