"""An OpenAI-compatible engine for measuring: chat, completions, streams with usage, prompts with log-probabilities.

    ~/.cache/trimtab/llama-cpp/bin/python benchmarks/effects/http_engine.py --model SmolLM2.gguf --port 9100

Not a server for users: no limits, no authentication, one process.
"""

from __future__ import annotations

import argparse
import codecs
import json
import queue
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from slots import Job, Model

_WAIT_S = 1800.0


class Engine:
    """The model behind the routes."""

    def __init__(self, path: str, context: int, slots: int, threads: int) -> None:
        self.model, self.name, self.context = Model(path, context, slots, threads), Path(path).stem, context
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(self.model.template) if self.model.template else None

    def prompt(self, body: Mapping[str, Any]) -> str:
        """The text that messages become. Raises ValueError where the model has no chat template."""
        if self._template is None:
            raise ValueError("this model has no chat template; ask /v1/completions")
        whole = self.model.whole
        return str(self._template.render(
            messages=body["messages"], add_generation_prompt=True,
            bos_token=whole.detokenize([whole.token_bos()], special=True).decode(),
            eos_token=whole.detokenize([whole.token_eos()], special=True).decode(),
        ))  # fmt: skip

    def score(self, text: str) -> dict[str, Any]:
        """A completion's `logprobs` of the prompt's own tokens; offsets in characters."""
        tokens = self.model.tokenize(text)
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.model.submit(Job(tokens, heard.put))
        told = heard.get(timeout=_WAIT_S)
        if isinstance(told, Exception):
            raise told
        offsets, names, at, decoder = [], [], 0, codecs.getincrementaldecoder("utf-8")("replace")
        bos = self.model.whole.token_bos()
        for number, token in enumerate(tokens):
            added = number == 0 and token == bos and not text.startswith(self.model.piece(bos).decode())
            piece = "" if added else decoder.decode(self.model.piece(token))
            offsets.append(at)
            names.append(piece)
            at += len(piece)
        return {"tokens": names, "token_logprobs": told, "text_offset": offsets, "top_logprobs": None}

    def write(self, text: str, body: Mapping[str, Any], top: int) -> Iterator[dict[str, Any]]:
        """Pieces of the answer, each {"text", "logprobs"}, then {"finish", "usage"}."""
        tokens = self.model.tokenize(text)
        length, heard = len(tokens), queue.SimpleQueue[Any]()
        most = body.get("max_completion_tokens") or body.get("max_tokens") or 512
        most = min(int(most), self.context - length - 1)
        if most < 1:
            raise ValueError(f"the prompt has {length} tokens; the context is {self.context}")
        temperature = body.get("temperature")
        job = Job(
            tokens, heard.put, most, 1.0 if temperature is None else float(temperature), float(body.get("top_p") or 1),
            float(body.get("repetition_penalty") or body.get("repeat_penalty") or 1), top,
            np.random.default_rng(body.get("seed")),
        )  # fmt: skip
        self.model.submit(job)
        stops = body.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        held, finish, count = "", "", 0
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        back = max((len(stop) for stop in stops), default=1) - 1
        try:
            while not finish:
                event = heard.get(timeout=_WAIT_S)
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, str):
                    finish = event
                    break
                token, logprob, tops = event
                count += 1
                held += "" if self.model.ends(token) else decoder.decode(self.model.piece(token))
                found = [at for stop in stops if (at := held.find(stop)) >= 0]
                if found:
                    held, finish = held[: min(found)], "stop"
                ready = held if finish else held[: len(held) - back]
                held = held[len(ready) :]
                yield {"text": ready, "logprobs": self._told(token, logprob, tops) if top else None}
        finally:
            job.stopped.set()
        if held:
            yield {"text": held, "logprobs": None}
        usage = {"prompt_tokens": length, "completion_tokens": count, "total_tokens": length + count,
                 "prompt_tokens_details": {"cached_tokens": job.cached}}  # fmt: skip
        yield {"finish": finish, "usage": usage}

    def _told(self, token: int, logprob: float, tops: list[tuple[int, float]]) -> dict[str, Any]:
        name = self.model.piece(token).decode("utf-8", "replace")
        others = [{"token": self.model.piece(t).decode("utf-8", "replace"), "logprob": p} for t, p in tops]
        return {"token": name, "logprob": logprob, "top_logprobs": others}


class Handler(BaseHTTPRequestHandler):
    """The routes. `engine` is set before the server starts."""

    engine: Engine
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the benchmark has its own log."""

    def do_GET(self) -> None:
        """The models."""
        if self.path != "/v1/models":
            return self._json({"error": {"message": f"no {self.path}"}}, 404)
        row = {"id": self.engine.name, "object": "model", "max_model_len": self.engine.context}
        return self._json({"object": "list", "data": [row]})

    def do_POST(self) -> None:
        """Completions of both kinds, and what messages become."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            if self.path == "/apply-template":
                self._json({"prompt": self.engine.prompt(body)})
            elif self.path == "/v1/completions" and body.get("echo"):
                self._scored(body)
            elif self.path in ("/v1/completions", "/v1/chat/completions"):
                self._written(body, self.path == "/v1/chat/completions")
            else:
                self._json({"error": {"message": f"no {self.path}"}}, 404)
        except (ValueError, KeyError, TypeError) as error:
            self._json({"error": {"message": str(error), "type": "invalid_request_error"}}, 400)
        except RuntimeError as error:
            self._json({"error": {"message": str(error)}}, 500)
        except ConnectionError:
            self.close_connection = True

    def _scored(self, body: Mapping[str, Any]) -> None:
        texts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        scores = [self.engine.score(text) for text in texts]
        rows = [
            {"index": n, "text": text, "logprobs": score, "finish_reason": "length"}
            for n, (text, score) in enumerate(zip(texts, scores, strict=True))
        ]
        count = sum(len(score["tokens"]) for score in scores)
        usage = {"prompt_tokens": count, "completion_tokens": 0, "total_tokens": count}
        self._json({"object": "text_completion", "model": self.engine.name, "choices": rows, "usage": usage})

    def _written(self, body: Mapping[str, Any], chat: bool) -> None:
        text = self.engine.prompt(body) if chat else body["prompt"]
        top = int(body.get("top_logprobs") or (body.get("logprobs") or 0))
        pieces = self.engine.write(text, body, top)
        first = next(pieces)  # what is wrong with the request shows here
        if body.get("stream"):
            return self._streamed(first, pieces, chat, bool((body.get("stream_options") or {}).get("include_usage")))
        told = [first, *pieces]
        said = "".join(piece.get("text", "") for piece in told)
        content = [piece["logprobs"] for piece in told if piece.get("logprobs")]
        choice: dict[str, Any] = {"index": 0, "finish_reason": told[-1]["finish"]}
        choice |= {"message": {"role": "assistant", "content": said}} if chat else {"text": said}
        choice["logprobs"] = {"content": content} if content else None
        self._json(self._object(chat, False) | {"choices": [choice], "usage": told[-1]["usage"]})
        return None

    def _streamed(self, first: dict[str, Any], pieces: Iterator[dict[str, Any]], chat: bool, usage: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

        def event(data: str) -> None:
            raw = f"data: {data}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))

        shape = self._object(chat, True)
        for piece in chain([first], pieces):
            said = piece.get("text")
            if said is None or said:
                delta = {"delta": {"content": said} if said else {}} if chat else {"text": said or ""}
                choice = {"index": 0, **delta, "finish_reason": piece.get("finish")}
                event(json.dumps(shape | {"choices": [choice]}))
            if "usage" in piece and usage:
                event(json.dumps(shape | {"choices": [], "usage": piece["usage"]}))
        event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _object(self, chat: bool, stream: bool) -> dict[str, Any]:
        name = ("chat.completion.chunk" if stream else "chat.completion") if chat else "text_completion"
        return {"id": "cmpl-0", "object": name, "created": int(time.time()), "model": self.engine.name}

    def _json(self, what: Mapping[str, Any], status: int = 200) -> None:
        raw = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def main() -> None:
    """Serve until stopped; the first line on stdout is the URL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a GGUF file")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--context", type=int, default=4096, help="tokens of a sequence")
    parser.add_argument("--slots", type=int, default=12, help="sequences at a time")
    parser.add_argument("--threads", type=int, default=1, help="more lose on a busy machine: they wait for each other")
    args = parser.parse_args()
    Handler.engine = Engine(args.model, args.context, args.slots, args.threads)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
