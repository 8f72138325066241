"""The configuration: every mistake dies at boot with its line and the names that would be right."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from prompt_opt.pipeline import STAGES
from serve.config import ConfigError, Flags, Server
from serve.configure.reader import load

A, B = "a" * 64, "b" * 64
ONE = f'[[key]]\nid = "a"\nsha256 = "{A}"\n'
# name -> the file, the line, words of the message
MISTAKES: dict[str, tuple[str, int, str]] = {
    "unknown section": ("\n[sever]\nport = 1\n", 2, "sever: unknown; valid are state_dir, server, engine"),
    "unknown top key": ('\nstat_dir = "x"\n', 2, "stat_dir: unknown"),
    "state_dir": ("state_dir = 5\n", 1, "state_dir: must be a path"),
    "unknown setting": ("[server]\n\nprt = 1\n", 3, "server.prt: unknown; valid are host, port, workers"),
    "text for a number": ('[server]\nport = "x"\n', 2, "server.port: must be an integer"),
    "boolean for a number": ("[server]\nport = true\n", 2, "server.port: must be an integer"),
    "port": ("[server]\nport = 99999\n", 2, "between 0 and 65535"),
    "workers": ("[server]\n\nworkers = 0\n", 3, "server.workers: must be more than zero"),
    "hosts": ('[server]\nhosts = ["https://ai.example"]\n', 2, "'https://ai.example' is not a host name"),
    "drain_s": ("[server]\ndrain_s = -1\n", 2, "must not be negative"),
    "trace_ttl_s": ("[server]\ntrace_ttl_s = -1\n", 2, "must not be negative"),
    "open to all": ('[server]\nhost = "0.0.0.0"\n', 2, "server.host: 0.0.0.0 is reachable from other hosts"),
    "server policy": ('[server]\npolicy = "x"\n', 2, "no policy 'x'; valid are raw, urial"),
    "server no table": ("server = 5\n", 1, "server: must be a table"),
    "engine no table": ("[engine]\nmain = 5\n", 2, "engine.main: must be a table"),
    "engine of nothing": ("[engine.main]\n", 1, "needs a url, or a model"),
    "engine scheme": ('[engine.main]\n\nurl = "ftp://x"\n', 3, "is not an http:// or https:// URL"),
    "engine brackets": ('[engine.main]\nurl = "http://[x"\n', 2, "is not an http:// or https:// URL"),
    "engine port": ('[engine.main]\nurl = "http://x:99999"\n', 2, "is not an http:// or https:// URL"),
    "engine blanks": ('[engine.main]\nurl = "http://x/a b"\n', 2, "is not an http:// or https:// URL"),
    "engine query": ('[engine.main]\nurl = "http://x/v1?k=v"\n', 2, "must not have a query or a fragment"),
    "engine credentials": ('[engine.main]\nurl = "http://me:secret@x"\n', 2, "must not contain credentials"),
    "engine kind": ('[engine.main]\nurl = "http://x"\nkind = "vlm"\n', 3, "valid are 'openai', 'vllm', 'transformers'"),
    "engine feature": (
        '[engine.main]\nurl = "http://x"\nsupports = ["imges"]\n',
        3,
        "no feature 'imges'; valid are audio",
    ),
    "engine field": (
        '[engine.main]\nurl = "http://x"\nfields_pass = ["verbosty"]\n',
        3,
        "no field 'verbosty'; valid are",
    ),
    "engine features": ('[engine.main]\nurl = "http://x"\nsupports = "n"\n', 3, "must be a list"),
    "engine key": ('[engine.main]\nurl = "http://x"\nkey_env = "NONE"\n', 3, "the environment has no NONE"),
    "engine command": ('[engine.main]\nmodel = "m"\ncommand = ["x"]\n', 3, "must contain {port}"),
    "engine both": ('[engine.main]\nurl = "http://x"\nlauncher = "vllm"\n', 2, "not both"),
    "engine url and urls": (
        '[engine.main]\nurl = "http://x"\nurls = ["http://y"]\n',
        3,
        "has a url, or urls, or is launched",
    ),
    "engine launched with urls": (
        '[engine.main]\nmodel = "m"\nlauncher = "vllm"\nurls = ["http://y"]\n',
        4,
        "has a url, or urls, or is launched",
    ),
    "engine no urls": ("[engine.main]\nurls = []\n", 2, "engine.main.urls: lists no URL"),
    "engine urls text": ('[engine.main]\nurls = "http://x"\n', 2, "must be a list"),
    "engine urls scheme": ('[engine.main]\nurls = ["http://x", "y"]\n', 2, "engine.main.urls: 'y' is not an http://"),
    "engine urls twice": ('[engine.main]\nurls = ["http://x", "http://x/v1/"]\n', 2, "'http://x' is listed twice"),
    "engine affinity": ('[engine.main]\nurls = ["http://x"]\naffinity = -1\n', 3, "at least 0"),
    "engine setting": (
        '[engine.main]\nurl = "http://x"\napi_base = "y"\n',
        3,
        "engine.main.api_base: unknown; valid are url",
    ),
    "engine stops": ('[engine.main]\nurl = "http://x"\nmax_stop = -1\n', 3, "at least 0"),
    "engine context": ('[engine.main]\nurl = "http://x"\ncontext = 0\n', 3, "at least 1"),
    "engine tokenizer": ('[engine.main]\nurl = "http://x"\ntokenizer = "/none"\n', 3, "no file or folder '/none'"),
    "engine name": ('\n[engine."a b"]\nurl = "http://x"\n', 2, "a name is made of letters"),
    "profile without file": ("[profile.a]\n", 1, "must be the path of a profile"),
    "profile not there": ('[profile.a]\n\nfile = "none.toml"\n', 3, "give a file, or one of default, helpful, plain"),
    "profile setting": ('[profile.a]\nfil = "x"\n', 2, "profile.a.fil: unknown; valid are file"),
    "policy raw": ("[policy.raw]\n", 1, "raw is built in"),
    "policy setting": ("[policy.a]\nstagez = []\n", 2, "policy.a.stagez: unknown; valid are engine, stages, render"),
    "policy stage": (
        '[policy.a]\n\nstages = ["urail"]\n',
        3,
        f"no stage 'urail'; valid are {', '.join(sorted(STAGES))}",
    ),
    "policy stages": ("[policy.a]\nstages = 5\n", 2, "must be a list"),
    "policy stage twice": ('[policy.a]\nstages = ["urial", "urial"]\n', 2, "lists a stage twice"),
    "policy engine": ('[policy.a]\nengine = "x"\n', 2, "no engine 'x'; valid are main"),
    "policy profile": ('[policy.a]\nprofile = "x"\n', 2, "no profile 'x'; valid are default, helpful, plain"),
    "policy render": ('[policy.a]\nrender = "both"\n', 2, "valid are 'chat', 'base'"),
    "policy on_error": ('[policy.a]\non_error = "x"\n', 2, "valid are 'skip', 'fail'"),
    "policy budget": ("[policy.a]\nbudget_ms = 0\n", 2, "must be more than zero"),
    "policy budget type": ("[policy.a]\nbudget_ms = 1.5\n", 2, "must be an integer"),
    "policy table": ("[policy.a.opx]\nx = 1\n", 1, "policy.a.opx: unknown"),
    "stage setting": ("[policy.a.urial]\n\nx = 1\n", 3, "policy.a.urial.x: unknown"),
    "opo without settings": (
        '[policy.a]\nstages = ["opo"]\n',
        1,
        "policy.a.opo: the stage opo needs a table with index",
    ),
    "opo index": ('[policy.a]\nstages = ["opo"]\n[policy.a.opo]\nindex = ["x"]\n', 4, "no index 'x'; valid are none"),
    "opo pinned": (
        '[policy.a]\nstages = ["opo"]\n[policy.a.opo]\npinned = ["x"]\n',
        4,
        "'x' is not of the form INDEX",
    ),
    "opo setting": ('[policy.a]\nstages = ["opo"]\n[policy.a.opo]\nindx = 1\n', 4, "indx: unknown; valid are index, k"),
    "bpo without settings": (
        '[policy.a]\nstages = ["bpo"]\n',
        1,
        "policy.a.bpo: the stage bpo needs a table with rewri",
    ),
    "bpo rewriter": ('[policy.a]\nstages = ["bpo"]\nbpo = { rewriter = "x" }\n', 3, "no rewriter 'x'; valid are none"),
    "alias no table": ('[alias]\n\nx = "raw"\n', 3, 'must be a table: { policy = "NAME"'),
    "alias policy": ('[alias]\nx = { policy = "y" }\n', 2, "no policy 'y'; valid are raw"),
    "alias without policy": ('[alias]\nx = { model = "y" }\n', 2, "needs policy"),
    "alias setting": (
        '[alias]\nx = { policy = "raw", engine = "y" }\n',
        2,
        "engine is unknown; valid are policy, model",
    ),
    "key no list": ('[key]\nid = "a"\n', 1, "write [[key]]"),
    "key hash": ('[[key]]\nid = "a"\nsha256 = "x"\n', 3, "must be the SHA-256"),
    "key without hash": ('[[key]]\nid = "a"\n', 1, "needs sha256"),
    "second key": (ONE + '[[key]]\nid = "b"\nsha256 = "x"\n', 6, "key 'b': must be the SHA-256"),
    "key twice": (ONE + f'[[key]]\nid = "a"\nsha256 = "{B}"\n', 5, "duplicate key id 'a'"),
    "secret twice": (ONE + f'[[key]]\nid = "b"\nsha256 = "{A.upper()}"\n', 6, "has the same secret as another key"),
    "key policy": (ONE + 'policies = ["x"]\n', 4, "no policy 'x'"),
    "key right": (
        ONE + 'rights = ["x"]\n',
        4,
        "no right 'x'; valid are account, approver, author, date, explain, feedback, language, metrics, principles, "
        "raw, region, reports, shared-principles, skip, traces",
    ),
    "key default": (ONE + 'policies = ["urial"]\npolicy = "urial-plain"\n', 5, "may not use its own default"),
    "key setting": ('[[key]]\nsecret = "sk-not-here"\n', 2, "key.secret: unknown"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_what_would_be_right(tmp_path: Path, name: str) -> None:
    text, line, word = MISTAKES[name]
    file = tmp_path / "trimtab.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(Flags(config=str(file)), {})
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: "), message
    assert word in message
    assert "\n" not in message
    assert "secret@" not in message or "me:" in text  # what the file says may be quoted, a key's value is not
    assert "sk-not-here" not in message


def test_what_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "trimtab.toml"
    for content in (b"[server\n", b"a = 1\na = 2\n", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=str(file)):
            load(Flags(config=str(file)), {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Flags(config=str(tmp_path / "none.toml")), {})


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"upstream": "localhost:8000"}, "is not an http:// or https:// URL"),
        ({"upstream": "http://x", "engine": "vllm"}, "can't be given with --upstream"),
        ({"model": "m", "engine": "llama"}, "--engine llama: valid are auto, vllm, transformers"),
        ({"upstream": "http://x", "render": "both"}, "--render both: valid are chat, base"),
        ({"upstream": "http://x", "policy": "nice"}, "no policy 'nice'; valid are raw, urial"),
        ({"upstream": "http://x", "key_env": "NONE"}, "the environment has no NONE"),
        ({"upstream": "http://x", "port": -1}, "between 0 and 65535"),
        ({"upstream": "http://x", "workers": 0}, "more than zero"),
        ({"upstream": "http://x", "host": "::"}, "reachable from other hosts"),
    ],
)
def test_a_flag_that_is_wrong_is_told(flags: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Flags(**flags), {})
    assert word in str(caught.value)


def test_the_embedded_model_goes_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "trimtab.toml"
    file.write_text('[engine.small]\nmodel = "trimtab-tiny"\n')
    engine = load(Flags(config=str(file)), {}).engines["small"]
    assert Path(engine.model, "config.json").is_file()
    assert engine.public_name == "trimtab-tiny"
    assert load(Flags(model="trimtab-tiny"), {}).engines["main"].model == engine.model


def test_flags_stand_before_the_file_and_the_file_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "trimtab.toml"
    file.write_text(
        '[server]\nport = 1234\nworkers = 2\n[engine.main]\nurl = "http://x/v1/"\n[engine.other]\nurl = "http://y"\n'
    )
    config = load(Flags(config=str(file), port=4321), {})
    assert (config.server.port, config.server.workers, config.server.max_n) == (4321, 2, Server().max_n)
    assert config.engines["main"].url == "http://x"
    engines = load(Flags(config=str(file), upstream="http://z"), {}).engines
    assert {name: engine.url for name, engine in engines.items()} == {"main": "http://z", "other": "http://y"}


@pytest.mark.parametrize("url", ["http://x", "http://x/", "http://x/v1", "http://x/v1/", "http://x/v1//"])
def test_an_engines_url_may_end_with_v1_or_not(url: str) -> None:
    assert load(Flags(upstream=url), {}).engines["main"].url == "http://x"


def test_a_url_keeps_its_path_before_v1() -> None:
    assert load(Flags(upstream="https://x/openai/v1"), {}).engines["main"].url == "https://x/openai"


def test_policies_are_hashed_by_all_that_they_do(tmp_path: Path) -> None:
    def digests(more: str) -> dict[str, str]:
        (tmp_path / "t.toml").write_text('[engine.main]\nurl = "http://x"\n[policy.a]\n' + more)
        return {name: p.digest for name, p in load(Flags(config=str(tmp_path / "t.toml")), {}).policies.items()}

    plain = digests("")
    assert digests("") == plain
    for more in ("budget_ms = 5\n", 'profile = "plain"\n', 'render = "base"\n', 'on_error = "fail"\n', "stages = []\n"):
        assert digests(more)["a"] != plain["a"]
    assert len(set(plain.values())) == len(plain)


def test_a_key_gets_its_id_as_tenant_and_a_loopback_host_needs_none(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    file = tmp_path / "t.toml"
    file.write_text(
        f'[server]\nhost = "0.0.0.0"\n[engine.main]\nurl = "http://x"\n[[key]]\nid = "a"\nsha256 = "{digest.upper()}"\n'
    )
    config = load(Flags(config=str(file)), {})
    assert (config.keys[0].tenant, config.keys[0].sha256) == ("a", digest)
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert load(Flags(upstream="http://x", host=host), {}).server.host == host


def test_a_profile_is_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('user_marker = "# Q"\nassistant_marker = "# A"\n')
    file = tmp_path / "t.toml"
    file.write_text(
        '[engine.main]\nurl = "http://x"\n[profile.mine]\nfile = "mine.toml"\n[policy.a]\nprofile = "mine"\n'
    )
    assert load(Flags(config=str(file)), {}).policies["a"].profile.user_marker == "# Q"
