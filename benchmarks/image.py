"""python benchmarks/image.py --base FOLDER: do the images build without a Docker daemon, and does the proxy answer?

Builds docker/proxy.Dockerfile (and with --train docker/train.Dockerfile) with Debian's buildah under
`--isolation chroot`, on a base made of a Debian root folder that stands in for python:3.11-slim:

    debootstrap --include=python3,python3-pip,python3-venv,ca-certificates bookworm FOLDER

Then starts the proxy's image as its own command line says, the way a hardened container does: root read-only, user
10001 without capabilities, only /state and /tmp writable; before an engine on this machine (benchmarks/upstream.py).
It waits for the first answer under the policy `urial`, sends SIGTERM in the middle of a stream and reads it to its end.

Needs root, buildah and util-linux; a network only for pip. Not covered: seccomp profiles, cgroup limits,
GPUs, and what differs between the base here and Docker's python image.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
CHAT = {"model": "bench", "messages": [{"role": "user", "content": "How long does an egg need?"}]}


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


def build(dockerfile: Path, tag: str, arguments: list[str]) -> float:
    """Seconds that the build of an image took."""
    started = time.monotonic()
    extra = [f"--build-arg={argument}" for argument in arguments]
    if certificates := os.environ.get("PIP_CERT"):
        extra.append(f"--env=PIP_CERT={certificates}")
    folders = [f for f in os.environ.get("PIP_FIND_LINKS", "").split() if Path(f).is_dir()]
    extra += [f"--volume={folder}:{folder}:ro" for folder in folders] + [f"--env=PIP_FIND_LINKS={' '.join(folders)}"]
    buildah(
        "build", "--quiet", "--isolation=chroot", "--pull=never", "--format=docker", *extra, "--file",
        str(dockerfile), "--ignorefile", f"{dockerfile}.dockerignore", "--tag", tag, str(ROOT),
    )  # fmt: skip
    return time.monotonic() - started


@contextmanager
def mounted(tag: str) -> Iterator[tuple[Path, dict[str, object]]]:
    """The root folder of an image, and its configuration."""
    container = buildah("from", "--pull=never", tag)
    try:
        settings = json.loads(buildah("inspect", "--type=image", tag))["Docker"]["config"]
        yield Path(buildah("mount", container)), settings
    finally:
        buildah("rm", container)


def confined(root: Path, state: Path, settings: dict[str, object], config: Path, argv: list[str]) -> list[str]:
    """The command that runs `argv` in the image: read-only root, its user, no capabilities, /state and /tmp."""
    user, _, group = str(settings["User"]).partition(":")
    environment = [str(row) for row in settings["Env"]]  # type: ignore[attr-defined]
    # The mount points are made before the root is read-only.
    script = f"""set -e
        mkdir -p {root}/etc/trimtab {root}/proc && touch {root}/etc/trimtab/trimtab.toml
        mount --bind {root} {root} && mount -o remount,bind,ro {root}
        mount --bind {config} {root}/etc/trimtab/trimtab.toml
        mount --bind {state} {root}/state && mount -t tmpfs tmpfs {root}/tmp && mount --rbind /proc {root}/proc
        cd {root}/state
        exec env -i {" ".join(environment)} HOME=/state chroot --userspec={user}:{group} {root} \\
            setpriv --no-new-privs --inh-caps=-all --ambient-caps=-all sh -c 'cd /state && exec "$@"' sh "$@" """
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *argv]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, metavar="FOLDER", help="root folder made by debootstrap")
    parser.add_argument("--train", action="store_true", help="build train.Dockerfile too (gigabytes)")
    options = parser.parse_args()
    proxy = ROOT / "docker/proxy.Dockerfile"
    for name in bases(proxy):
        make_base(options.base, f"docker.io/library/{name}")
    print(f"proxy.Dockerfile built in {build(proxy, 'trimtab-proxy', []):.1f} s", flush=True)
    run_proxy()
    if options.train:
        seconds = build(ROOT / "docker/train.Dockerfile", "trimtab-train", [])
        print(f"train.Dockerfile built in {seconds:.1f} s", flush=True)
        with mounted("trimtab-train") as (root, _):
            listed = subprocess.run(
                ["chroot", "--userspec=10001:10001", str(root), "trimtab", "train", "--list"],
                check=True, stdout=subprocess.PIPE, text=True,
            ).stdout  # fmt: skip
        print(f"trimtab train --list in it: {len(listed.splitlines())} lines")


def run_proxy() -> None:
    engine_port, port = free_port(), free_port()
    engine = subprocess.Popen(
        [sys.executable, "benchmarks/upstream.py", "--port", str(engine_port), "--chunks", "40", "--interval-ms", "50"],
        cwd=ROOT,
    )
    with mounted("trimtab-proxy") as (root, settings), tempfile.TemporaryDirectory() as scratch:
        state = Path(scratch) / "state"
        state.mkdir()
        os.chown(state, 10001, 10001)
        Path(scratch).chmod(0o755)
        config = ROOT / "docker/trimtab.toml"
        probe = ["sh", "-c", "id -u; touch /probe 2> /dev/null || echo read-only; touch /tmp/probe && echo scratch"]
        seen = subprocess.run(
            confined(root, state, settings, config, probe), check=True, stdout=subprocess.PIPE, text=True
        ).stdout.split()
        assert seen == ["10001", "read-only", "scratch"], seen
        argv = [*settings["Entrypoint"], *settings["Cmd"]]  # type: ignore[misc]
        argv += ["--upstream", f"http://127.0.0.1:{engine_port}", "--port", str(port)]
        started = time.monotonic()
        server = subprocess.Popen(confined(root, state, settings, config, argv), stderr=subprocess.DEVNULL)
        try:
            answer, applied = first_answer(port, server)
            print(f"first aligned answer after {time.monotonic() - started:.2f} s: {applied}: {answer[:24]}…")
            with urllib.request.urlopen(post(port, {**CHAT, "stream": True}), timeout=20) as stream:
                head = stream.readline()
                server.send_signal(signal.SIGTERM)
                rest = stream.read()
            assert head.startswith(b"data: ")
            whole = rest.rstrip().endswith(b"[DONE]")
            print(f"SIGTERM in mid-stream: the answer {'ended whole' if whole else 'WAS CUT'}, ", end="")
            print(f"the server left with {server.wait(timeout=40)}; written: {sorted(p.name for p in state.iterdir())}")
            assert whole
            assert server.returncode == 0
        finally:
            for process in (server, engine):
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
