"""The API of evaluation reports: the report.json of each run in the folder that `[server] reports` names, read only."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.dialects.wire import NOT_JSON
from serve.errors import NotFound

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")  # of a run's folder: no path, and no hidden one
_FILE = "report.json"
_SCHEMA = "trimtab-eval-report/1"
_MOST = 200  # runs of the list
_LIMIT = 32 * 2**20  # bytes of a report
# What is told of a report. Of the run only the times: its command and its engines' addresses are the operator's.
_TOLD = ("summary", "questions", "comparisons", "kinds", "judge", "calibration")
_RUN = ("version", "started", "finished", "baseline")


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the routes on the application. Both need the right `reports`."""

    @app.get("/v1/reports", tags=["trimtab"], summary="Evaluation reports, newest first")
    async def page(request: Request) -> Response:
        caller(request).require("reports")
        folder = service().config.server.reports
        rows = await asyncio.to_thread(_listed, folder) if folder else []
        return json_reply({"object": "list", "data": rows})

    @app.get("/v1/reports/{name}", tags=["trimtab"], summary="One evaluation report")
    async def one(request: Request, name: str) -> Response:
        caller(request).require("reports")
        return json_reply(await asyncio.to_thread(_report, service().config.server.reports, name))


def _listed(folder: str) -> list[dict[str, Any]]:
    """The runs that have a report; `written` in Unix seconds."""
    rows: list[dict[str, Any]] = []
    for name in filter(_NAME.fullmatch, os.listdir(folder)):
        try:
            file = _opened(folder, name)
        except OSError:  # no report yet, or none of ours to show
            continue
        with os.fdopen(file, "rb"):
            rows.append({"object": "report", "id": name, "written": int(os.fstat(file).st_mtime)})
    return sorted(rows, key=lambda row: (-row["written"], row["id"]))[:_MOST]


def _report(folder: str, name: str) -> dict[str, Any]:
    """What is told of one report.

    Raises:
        NotFound: there is none of that name, or it is no report of this version.
    """
    missing = NotFound(f"no evaluation report {name!r}", code="report_not_found")
    if not folder or not _NAME.fullmatch(name):
        raise missing
    try:
        with os.fdopen(_opened(folder, name), "rb") as file:
            body = file.read(_LIMIT + 1)
    except OSError:
        raise missing from None
    if len(body) > _LIMIT:
        raise NotFound(f"the report {name!r} has more than {_LIMIT // 2**20} MB", code="report_unreadable")
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
    except NOT_JSON:
        told = {}
    if told.get("schema") != _SCHEMA:
        raise NotFound(f"{name!r} holds no evaluation report of schema {_SCHEMA}", code="report_unreadable")
    raw = told.get("run")
    run = raw if isinstance(raw, dict) else {}
    return {
        "object": "report", "id": name, **{key: told.get(key) for key in _TOLD},
        "run": {key: run.get(key) for key in _RUN},
    }  # fmt: skip


def _opened(folder: str, name: str) -> int:
    """A descriptor of a run's report. No step follows a link, so that nothing outside the folder can be read.

    Raises:
        OSError: there is no such run or report, it is a link, or no plain file.
    """
    base = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        run = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=base)
    finally:
        os.close(base)
    try:
        file = os.open(_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=run)
    finally:
        os.close(run)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(f"{_FILE} is no plain file")
    return file
