"""python benchmarks/image.py [proxy|train] --base FOLDER: does an image build without Docker, and work?

Builds docker/proxy.Dockerfile or docker/train.Dockerfile with Debian's buildah under `--isolation chroot`, on a base
made of a Debian root folder that stands in for python:3.11-slim (python3-dev: Docker's image has Python's headers too):

    debootstrap --include=python3,python3-dev,python3-pip,python3-venv,ca-certificates bookworm FOLDER

Then runs it the way a hardened container does: root read-only, the image's user without capabilities, process 1 of
its own process namespace, only its volumes and /tmp writable, and /tmp without executables, as Docker's tmpfs is.

proxy: as its own command line says, before an engine on this machine (benchmarks/upstream.py). Waits for the first
answer under the policy `urial`, sends the stop signal in the middle of a stream and reads it to its end.

train: `--version`, `train --help`, then real runs whose output goes to the mounted /work: sft of the packaged model on
docs/examples/pairs.jsonl, its export, and cpt from nothing under torch.compile, whose kernels the image's compiler
builds. The sft gets the stop signal after its first checkpoint, and the same command takes it to its end.

Needs root, buildah and util-linux; a network only for pip and apt. The image stays (`buildah rmi trimtab-train`).
Not covered: seccomp profiles, cgroup limits, GPUs, and what differs between the base here and Docker's python image.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
CHAT = {"model": "bench", "messages": [{"role": "user", "content": "How long does an egg need?"}]}

# What tiny_scratch.yaml's run becomes here: a model of a few thousand weights and two steps.
SMALL = {
    "train_file": "/given/text.jsonl", "heldout_file": "/given/text.jsonl", "block": 32, "long_block": 32, "batch": 2,
    "micro_batch": 2, "steps": 2, "warmup_steps": 1, "eval_every": 2, "eval_blocks": 1, "final_eval_tokens": 64,
    "save_every": 2, "vocabulary": 300, "context": 64, "hidden": 16, "inner": 32, "layers": 1, "heads": 2,
    "kv_heads": 1,
}  # fmt: skip


def buildah(*argv: str) -> str:
    """Run buildah and return what it printed; its own messages go to our standard error."""
    return subprocess.run(["buildah", *argv], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def bases(dockerfile: Path) -> set[str]:
    """The images that a Dockerfile starts from."""
    return set(re.findall(r"^FROM (\S+)", dockerfile.read_text("utf-8"), re.MULTILINE))


def make_base(folder: Path, name: str) -> None:
    """Commit a Debian root folder as the image `name`, with what Docker's python image adds to it."""
    (folder / "usr/bin/python").unlink(missing_ok=True)
    (folder / "usr/bin/python").symlink_to("python3")
    for mark in folder.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        mark.unlink()
    if Path(CERTIFICATES).is_file():  # a registry behind a private certificate authority
        shutil.copyfile(CERTIFICATES, folder / CERTIFICATES[1:])
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(folder), "/")
    buildah("config", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", container)
    buildah("commit", "--quiet", "--rm", container, name)


def build(dockerfile: Path, tag: str) -> float:
    """Seconds that the build of an image took."""
    started = time.monotonic()
    buildah(
        "build", "--quiet", "--isolation=chroot", "--pull=never", "--format=docker", "--file", str(dockerfile),
        "--ignorefile", f"{dockerfile}.dockerignore", "--tag", tag, str(ROOT),
    )  # fmt: skip
    return time.monotonic() - started


@dataclass(frozen=True)
class Container:
    """An image's root folder and settings, and what is mounted in it: places in the container to folders here."""

    root: Path
    settings: Mapping[str, Any]
    writable: Mapping[str, Path]
    fixed: Mapping[str, Path]

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in the image, confined."""
        user, _, group = self.settings["User"].partition(":")
        home = self.settings["WorkingDir"]
        environment = [f"HOME={home}", *self.settings["Env"]]  # the later one counts
        lines = ["set -e", f"mkdir -p {self.root}/proc {self.root}/dev/shm"]  # mount points, while it can be written
        for place, source in self.fixed.items():
            make = "mkdir -p" if source.is_dir() else f"mkdir -p {self.root}{Path(place).parent} && touch"
            lines.append(f"{make} {self.root}{place}")
        lines.append(f"mount --bind {self.root} {self.root} && mount -o remount,bind,ro {self.root}")
        for place, source in (self.fixed | self.writable).items():
            lines.append(f"mount --bind {source} {self.root}{place}")
        lines += [f"mount -o remount,bind,ro {self.root}{place}" for place in self.fixed]
        lines += [
            f"mount -t tmpfs -o nosuid,nodev,noexec tmpfs {self.root}/tmp",
            f"mount -t tmpfs -o nosuid,nodev,noexec,size=64m tmpfs {self.root}/dev/shm",  # Docker's size
            f"mount -t proc proc {self.root}/proc",
            f"exec env -i {shlex.join(environment)} chroot --userspec={user}:{group} {self.root} "
            "setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all "
            f"""sh -c 'cd {home} && exec "$@"' sh "$@" """,
        ]
        spaces = ["--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        return ["unshare", *spaces, "sh", "-c", "\n".join(lines), "sh", *argv]

    def run(self, *argv: str) -> str:
        """What a command in it printed; CalledProcessError where it failed."""
        return subprocess.run(self.command(argv), check=True, stdout=subprocess.PIPE, text=True).stdout

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """A command in it that goes on."""
        return subprocess.Popen(self.command(argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """Send process 1 the image's stop signal, as `docker stop` does; its exit status, or TimeoutExpired."""
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("ascii").split()
        # Without a handler the kernel keeps it from process 1, whoever sends it.
        os.kill(int(first), signal.Signals[self.settings["StopSignal"]])
        return process.wait(timeout=40)


@contextmanager
def container(tag: str, fixed: Mapping[str, Path]) -> Iterator[Container]:
    """The image `tag`, with new folders of its user's for its volumes."""
    name = buildah("from", "--pull=never", tag)
    try:
        settings = json.loads(buildah("inspect", "--type=image", tag))["Docker"]["config"]
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch).chmod(0o755)
            writable = {}
            for place in settings["Volumes"]:
                writable[place] = Path(scratch) / place[1:]
                writable[place].mkdir()
                os.chown(writable[place], *map(int, settings["User"].split(":")))
            it = Container(Path(buildah("mount", name)), settings, writable, fixed)
            probe = "id -u; touch /probe 2> /dev/null || echo read-only; touch /tmp/probe && echo scratch"
            seen = it.run("sh", "-c", probe).split()
            assert seen == ["10001", "read-only", "scratch"], seen
            yield it
    finally:
        buildah("rm", name)


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


def post(port: int, body: dict[str, object]) -> urllib.request.Request:
    headers = {"content-type": "application/json", "x-trimtab-policy": "urial"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return urllib.request.Request(url, json.dumps(body).encode(), headers)


def first_answer(port: int, server: subprocess.Popen[bytes]) -> tuple[str, str]:
    """The first answer and its X-Trimtab-Applied, however long the server needs to start (at most a minute)."""
    last: Exception | None = None
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit(f"the server left with {server.returncode}")
        try:
            with urllib.request.urlopen(post(port, CHAT), timeout=5) as response:
                answer = json.load(response)["choices"][0]["message"]["content"]
                return answer, response.headers["x-trimtab-applied"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{error.code}: {error.read().decode()}") from None
        except OSError as error:
            last = error
            time.sleep(0.1)
    raise SystemExit(f"no answer within a minute: {last}")


def run_proxy() -> None:
    engine_port, port = free_port(), free_port()
    engine = subprocess.Popen(
        [sys.executable, "benchmarks/upstream.py", "--port", str(engine_port), "--chunks", "40", "--interval-ms", "50"],
        cwd=ROOT,
    )
    with container("trimtab-proxy", {"/etc/trimtab/trimtab.toml": ROOT / "docker/trimtab.toml"}) as it:
        argv = [*it.settings["Entrypoint"], *it.settings["Cmd"]]
        started = time.monotonic()
        server = it.start(*argv, "--upstream", f"http://127.0.0.1:{engine_port}", "--port", str(port))
        try:
            answer, applied = first_answer(port, server)
            print(f"first aligned answer after {time.monotonic() - started:.2f} s: {applied}: {answer[:24]}…")
            with urllib.request.urlopen(post(port, {**CHAT, "stream": True}), timeout=20) as stream:
                head = stream.readline()
                with ThreadPoolExecutor() as pool:
                    left = pool.submit(it.stop, server)
                    rest = stream.read()
            assert head.startswith(b"data: ")
            whole = rest.rstrip().endswith(b"[DONE]")
            print(f"stop signal in mid-stream: the answer {'ended whole' if whole else 'WAS CUT'}, ", end="")
            written = sorted(path.name for path in it.writable["/state"].iterdir())
            print(f"the server left with {left.result()}; written: {written}")
            assert whole
            assert left.result() == 0
        finally:
            for process in (server, engine):
                process.kill()
                process.wait()


def run_train() -> None:
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder)
        given.chmod(0o755)
        shutil.copyfile(ROOT / "docs/examples/pairs.jsonl", given / "pairs.jsonl")
        texts = [text for text in (ROOT / "README.md").read_text("utf-8").split("\n\n") if text.strip()]
        (given / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
        recipe = yaml.safe_load((ROOT / "trainers/recipes/tiny_scratch.yaml").read_text("utf-8"))
        (given / "scratch.yaml").write_text(yaml.safe_dump(recipe | SMALL), "utf-8")
        with container("trimtab-train", {"/given": given}) as it:
            train(it)


def train(it: Container) -> None:
    """What the image is for; every run writes to /work, which is a folder here."""
    version = it.run("python", "-c", "import torch; print(torch.__version__)").strip()
    print(f"{it.run('trimtab', '--version').strip()}, torch {version}")
    print(f"trimtab train --help: {len(it.run('trimtab', 'train', '--help').splitlines())} lines", flush=True)

    work = it.writable["/work"]
    sft = ["trimtab", "train", "sft", "--config", "sft", "--out", "sft"]
    for change in ("train=/given/pairs.jsonl", "steps=40", "batch=4", "save_every=2", "eval_every=40", "threads=1"):
        sft += ["--set", change]
    stopped = it.start(*sft)
    try:
        started = time.monotonic()
        while not (saved := list(work.glob("sft/checkpoint-*/trainer_state.json"))):
            if stopped.poll() is not None or time.monotonic() > started + 300:
                raise SystemExit(f"no checkpoint; the run left with {stopped.returncode}")
            time.sleep(0.1)
        asked = time.monotonic()
        status = it.stop(stopped)
        took = time.monotonic() - asked
        print(
            f"{it.settings['StopSignal']} after {saved[0].parent.name}: left with {status} in {took:.1f} s", flush=True
        )
        assert status == 130, "not 130, interrupted"
    finally:
        stopped.kill()
        stopped.wait()

    started = time.monotonic()
    it.run(*sft)
    run = json.loads((work / "sft/run.json").read_text("utf-8"))
    before, after = (run[key]["loss"] for key in ("heldout_before", "heldout"))
    print(f"the same command again: {time.monotonic() - started:.1f} s, held-out loss {before:.3f} → {after:.3f}")
    assert after < before
    it.run("trimtab", "export", "--run", "sft", "--out", "model", "--license", "apache-2.0")
    owner = (work / "model").stat().st_uid
    print(f"exported, owned by {owner}: {sorted(path.name for path in (work / 'model').iterdir())}", flush=True)

    started = time.monotonic()
    it.run("trimtab", "train", "cpt", "--config", "/given/scratch.yaml", "--init", "config", "--out", "scratch")
    kernels = len(list(it.writable["/cache"].rglob("*.so")))
    print(f"cpt under torch.compile: {time.monotonic() - started:.1f} s, {kernels} compiled kernels in /cache")
    print(f"written: {sorted(path.name for folder in it.writable.values() for path in folder.iterdir())}")
    assert kernels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", choices=("proxy", "train"), default="proxy")
    parser.add_argument("--base", type=Path, required=True, metavar="FOLDER", help="root folder made by debootstrap")
    options = parser.parse_args()
    file, tag = ROOT / f"docker/{options.image}.Dockerfile", f"trimtab-{options.image}"
    for name in bases(file):
        make_base(options.base, f"docker.io/library/{name}")
    seconds = build(file, tag)
    print(f"{file.name} built in {seconds:.1f} s: {buildah('images', '--format', '{{.Size}}', tag)}", flush=True)
    run_proxy() if options.image == "proxy" else run_train()


if __name__ == "__main__":
    main()
