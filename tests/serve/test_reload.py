"""A reload never makes a server more open than the running configuration allowed, whatever has become of the file."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from serve.config import Config, ConfigError, Flags, Key
from serve.configure.grants import grants, refuse_widening
from serve.configure.reader import load
from serve.configure.server import refuse_opening
from tests.serve.conftest import Start

SECRET = "sk-only"
FILE = (
    'state_dir = "{state}"\n[server]\nhost = "%s"\n[engine.main]\nurl = "{url}"\n[[key]]\nid = "a"\nsha256 = "'
    + hashlib.sha256(SECRET.encode()).hexdigest()
    + '"\nrights = ["raw", "traces"]\n'
)
KEEP = 'state_dir = "{state}"\n[engine.main]\nurl = "http://127.0.0.1:1"\n'


def status(url: str, secret: str = "") -> int:
    headers = {"authorization": f"Bearer {secret}"} if secret else {}
    return httpx.get(url + "/v1/traces", headers=headers).status_code


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
@pytest.mark.parametrize("left", ["", KEEP, KEEP + '[server]\nhost = "127.0.0.1"\n', KEEP + "[server]\nopen = true\n"])
def test_a_file_that_lost_its_keys_is_not_taken(start: Start, host: str, left: str) -> None:
    served = start(file=FILE % host)
    url = served.url.replace("0.0.0.0", "127.0.0.1")
    assert (status(url), status(url, SECRET)) == (401, 200)
    served.config.write_text(left.replace("{state}", str(served.config.parent / "state")))
    served.process.send_signal(signal.SIGHUP)
    served.wait_for(r"not reloaded.*no \[\[key\]\], but the running configuration has")
    assert (status(url), status(url, SECRET)) == (401, 200)


def test_a_worker_that_starts_again_does_not_take_it_either(start: Start) -> None:
    served = start(file=FILE % "0.0.0.0")
    url = served.url.replace("0.0.0.0", "127.0.0.1")
    whole = served.config.read_text()
    served.config.write_text(KEEP.replace("{state}", str(served.config.parent / "state")))
    (worker,) = served.workers()
    os.kill(worker, signal.SIGKILL)
    served.wait_for(r"worker 0: it has no \[\[key\]\]")
    with pytest.raises(httpx.TransportError):
        httpx.get(url + "/v1/traces", timeout=0.5)
    served.config.write_text(whole)
    httpx.get(url + "/healthz", timeout=20)
    assert (status(url), status(url, SECRET)) == (401, 200)


def test_a_server_that_was_open_may_become_closed(start: Start) -> None:
    served = start(file=KEEP)
    assert status(served.url) == 200
    served.config.write_text(
        (FILE % "127.0.0.1").replace("{url}", "http://x").replace("{state}", str(served.config.parent))
    )
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("trimtab: reloaded")
    assert (status(served.url), status(served.url, SECRET)) == (401, 200)


@pytest.mark.parametrize(
    ("keys", "opened", "host", "keyed", "refused"),
    [
        (False, False, "127.0.0.1", False, ""),
        (False, False, "0.0.0.0", False, "bound to 0.0.0.0"),
        (False, True, "0.0.0.0", False, ""),
        (False, True, "0.0.0.0", True, "restart"),
        (False, False, "::1", True, "restart"),
        (True, False, "0.0.0.0", True, ""),
        (True, False, "0.0.0.0", False, ""),
    ],
)
def test_openness_is_judged_against_what_is_bound(
    keys: bool, opened: bool, host: str, keyed: bool, refused: str
) -> None:
    config: Config = load(Flags(upstream="http://x"), {})
    config = replace(config, keys=(Key("a", "0" * 64),) if keys else (), server=replace(config.server, open=opened))
    if not refused:
        return refuse_opening(config, host, keyed=keyed)
    with pytest.raises(ConfigError, match=refused):
        refuse_opening(config, host, keyed=keyed)


def test_a_state_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    argv = [sys.executable, "-m", "serve.cli.command", "serve", "--upstream", "http://127.0.0.1:1", "--port", "0"]
    argv += ["--state-dir", str(tmp_path / "file" / "state")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr == f"trimtab serve: state_dir '{tmp_path}/file/state' cannot be written: Not a directory\n"
    assert done.stdout == ""


def test_a_reload_to_a_state_folder_that_cannot_be_written_changes_nothing(start: Start, tmp_path: Path) -> None:
    served = start(file=KEEP)
    (tmp_path / "file").write_text("")
    served.config.write_text(KEEP.replace("{state}", str(tmp_path / "file" / "state")))
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("not reloaded.*state_dir .* cannot be written")
    assert status(served.url) == 200
    assert psutil.pid_exists(served.workers()[0])


def test_a_reload_to_a_store_that_cannot_be_opened_changes_nothing(start: Start, tmp_path: Path) -> None:
    served = start(file=KEEP)
    (worker,) = served.workers()
    (tmp_path / "traces.sqlite3").mkdir()
    served.config.write_text(KEEP.replace("{state}", str(tmp_path)))
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("worker 0: .*traces.sqlite3 cannot be opened")
    assert status(served.url) == 200
    assert served.workers() == [worker]


def test_a_worker_whose_store_cannot_be_opened_says_so_in_one_line(start: Start) -> None:
    served = start(file=KEEP)
    store = served.config.parent / "state" / "traces.sqlite3"
    (worker,) = served.workers()
    os.kill(worker, signal.SIGSTOP)
    for file in store.parent.glob("traces.sqlite3*"):
        file.unlink()
    store.mkdir()
    os.kill(worker, signal.SIGKILL)
    served.wait_for("worker 0: .*traces.sqlite3.*cannot be opened")
    assert not [line for line in served.said if "Traceback" in line]
    store.rmdir()
    assert httpx.get(served.url + "/healthz", timeout=20).status_code == 200


GUARDED = """
state_dir = "{state}"
[engine.main]
url = "{url}"
[index.law]
embedder = "none"
tenant = "a"
[policy.free]
render = "chat"
stages = ["urial"]
[policy.careful]
render = "chat"
stages = ["urial"]
[[key]]
id = "a"
sha256 = "%s"
policies = ["careful"]
rights = ["traces"]
"""


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('policies = ["careful"]\n', "", "could use the policy 'free'"),
        ('policies = ["careful"]', 'policies = ["careful", "free"]', "could use the policy 'free'"),
        ('policies = ["careful"]', 'policies = ["careful", "raw"]', "could use the policy 'raw'"),
        ('rights = ["traces"]', 'rights = ["traces", "raw"]', "would get the right 'raw'"),
        ('tenant = "a"\n', "", "index 'law' of tenant 'a' would be open to all tenants"),
        ('tenant = "a"\n', 'tenant = "b"\n', "index 'law' of tenant 'a' would be open to tenant 'b'"),
    ],
)
def test_a_file_that_lets_a_key_do_more_is_not_taken(tmp_path: Path, before: str, after: str, says: str) -> None:
    def read(text: str) -> Config:
        path = tmp_path / "trimtab.toml"
        path.write_text(text.replace("{state}", str(tmp_path)).replace("{url}", "http://127.0.0.1:1"))
        return load(Flags(config=str(path)))

    whole = GUARDED % hashlib.sha256(SECRET.encode()).hexdigest()
    assert before in whole
    running = read(whole)
    with pytest.raises(ConfigError, match=says):
        refuse_widening(read(whole.replace(before, after)), grants(running))
    refuse_widening(read(whole), grants(running))
    if 'tenant = "b"' not in after:
        refuse_widening(running, grants(read(whole.replace(before, after))))  # less is no matter


A, B = (hashlib.sha256(name).hexdigest() for name in (b"a", b"b"))
OPEN = 'state_dir = "{state}"\n[engine.main]\nurl = "http://127.0.0.1:1"\n[[key]]\n'
OF_A, OF_B = f'id = "a"\nsha256 = "{A}"\n', f'id = "b"\nsha256 = "{B}"\ntenant = "bolt"\n'
MORE, FEWER = 'rights = ["traces", "raw"]\n', 'rights = ["traces"]\n'


@pytest.mark.parametrize(
    ("left", "says"),
    [
        # As where lines between the two are lost: the secret of one stands under the id, or the tenant, of the other.
        (f'id = "a"\nsha256 = "{B}"\ntenant = "bolt"\n{MORE}', "key 'a' would get the right 'raw'"),
        (f'{OF_A}tenant = "bolt"\n{FEWER}', "key 'a' would be of tenant 'bolt', and is now of 'a'"),
        (f'id = "b"\nsha256 = "{A}"\ntenant = "bolt"\n{FEWER}', "the secret of key 'a' would be of tenant 'bolt'"),
        (OF_A + MORE + "[[key]]\n" + OF_B.replace('tenant = "bolt"\n', FEWER), "key 'b' would be of tenant 'b'"),
        (f'id = "z"\nsha256 = "{B}"\ntenant = "bolt"\n{MORE}', "key 'z' would get the right 'raw'"),
    ],
)
def test_a_secret_may_do_no_more_under_another_name(tmp_path: Path, left: str, says: str) -> None:
    def read(keys: str) -> Config:
        path = tmp_path / "trimtab.toml"
        path.write_text(OPEN.replace("{state}", str(tmp_path)) + keys)
        return load(Flags(config=str(path)))

    running = grants(read(f"{OF_A}{MORE}[[key]]\n{OF_B}{FEWER}"))
    with pytest.raises(ConfigError, match=says):
        refuse_widening(read(left), running)
    refuse_widening(read(f'id = "a"\nsha256 = "{"0" * 64}"\n{MORE}'), running)  # a new secret of an old key


def test_a_file_that_never_ends_or_begins_stops_nothing(start: Start) -> None:
    """A pipe without a writer, a device, a folder, a link to itself, a hundred megabytes."""
    served = start(file=KEEP)
    whole, path = served.config.read_text(), served.config

    def large(at: Path) -> None:
        with at.open("w") as file:
            file.write(whole + "#")
            file.truncate(100 * 2**20)

    kinds: dict[str, Callable[[Path], object]] = {
        "pipe.*not an ordinary file": os.mkfifo, "Too many levels": lambda at: at.symlink_to(at),
        "device.*not an ordinary file": lambda at: at.symlink_to("/dev/zero"),
        "folder.*not an ordinary file": Path.mkdir, "larger than 4 MB": large,
    }  # fmt: skip
    for says, make in kinds.items():
        path.unlink()
        make(path)
        served.process.send_signal(signal.SIGHUP)
        served.wait_for(f"not reloaded.*{says}")
        assert httpx.get(served.url + "/healthz", timeout=20).status_code == 200
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_text(whole)
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("trimtab: reloaded")


def test_a_file_that_lost_its_end_is_said_to_limit_and_record_nothing(start: Start) -> None:
    served = start(file=KEEP + '[limits.key]\nconcurrent = 9\n[account]\nrecord = "requests"\n')
    served.config.write_text(served.config.read_text().partition("[limits")[0])
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("trimtab: reloaded; nothing is limited any more; requests are no longer recorded$")


def test_a_key_may_use_a_policy_that_is_new(tmp_path: Path) -> None:
    path = tmp_path / "trimtab.toml"
    whole = GUARDED.replace("{state}", str(tmp_path)).replace("{url}", "http://127.0.0.1:1")
    whole %= hashlib.sha256(SECRET.encode()).hexdigest()
    path.write_text(whole)
    running = load(Flags(config=str(path)))
    new = '[policy.new]\nrender = "chat"\nstages = ["urial"]\n[[key]]\nid = "b"\nsha256 = "%s"\nrights = ["raw"]\n'
    path.write_text(whole.replace('"careful"]', '"careful", "new"]') + new % hashlib.sha256(b"b").hexdigest())
    refuse_widening(load(Flags(config=str(path))), grants(running))


def test_a_running_server_keeps_a_keys_policies(start: Start) -> None:
    served = start(file=GUARDED % hashlib.sha256(SECRET.encode()).hexdigest())
    whole = served.config.read_text()
    served.config.write_text(whole.replace('policies = ["careful"]\n', ""))
    served.process.send_signal(signal.SIGHUP)
    served.wait_for(r"not reloaded.*could use the policy 'free'")
    (worker,) = served.workers()
    os.kill(worker, signal.SIGKILL)
    served.wait_for(r"worker 0: key 'a' could use the policy 'free'")
    served.config.write_text(whole)
    headers = {"authorization": f"Bearer {SECRET}"}
    rows = httpx.get(served.url + "/v1/policies", headers=headers, timeout=20).json()["data"]
    assert [row["id"] for row in rows] == ["careful"]
