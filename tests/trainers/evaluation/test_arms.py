"""Arms: how they are written, and that a wrong one is told what would be right before anything is sent."""

import re
from typing import Any

import pytest

from tests.trainers.evaluation.scripted_engine import ScriptedEngine
from tests.upstream import FakeUpstream
from trainers.ask.host import EngineError
from trainers.evaluation.arms.arm import Arm, ArmError, find, read_arm, read_arms

URL = "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("written", "arm"),
    [
        ("plain", Arm("plain", URL, policy="plain")),
        ("strict=careful,temperature=0", Arm("strict", URL, policy="careful", decoding={"temperature": 0})),
        ("careful#gpt-4o", Arm("careful", URL, "gpt-4o", "careful")),
        ("#gpt-4o", Arm("gpt-4o", URL, "gpt-4o")),
        ("gpt=https://a.com/v1#org/m,key_env=K", Arm("gpt", "https://a.com/v1", "org/m", key_env="K")),
        ("http://b:9#m", Arm("m", "http://b:9", "m")),
        ("http://b:9", Arm("b:9", "http://b:9")),
        ("new=http://b:9,policy=law,body.min_tokens=3", Arm("new", "http://b:9", "", "law", "", {"min_tokens": 3})),
        ({"name": "x", "policy": "p", "stop": ["a", "b"]}, Arm("x", URL, policy="p", decoding={"stop": ["a", "b"]})),
    ],
)  # fmt: skip
def test_an_arm_is_written_in_a_line_or_a_mapping(written: Any, arm: Arm) -> None:
    assert read_arm(written, URL) == arm


@pytest.mark.parametrize(
    ("written", "url", "message"),
    [
        ("plain", "", "no URL; give --url for the server whose policy it is, or NAME=URL#MODEL"),
        ("plain,temprature=1", URL, "no setting 'temprature' (did you mean 'temperature'?); valid are name, url"),
        ("plain,hot", URL, "'hot' is not KEY=VALUE"),
        ("plain,seed=3", URL, "seed is set by the run"),
        ("plain,body.messages=[]", URL, "messages is set by the run"),
        ("x=http://[b", URL, "'http://[b' is no http:// or https:// address"),
        ("x=http://b:port#m", URL, "'http://b:port' is no http:// or https:// address"),
        (
            "x=http://me:secret@b#m",
            URL,
            "holds a name or a password, which the report would show",
        ),
        ("x=ftp://b", URL, "'ftp://b' is no http:// or https:// address"),
        ("plain,stop=[", URL, "the value of 'stop' is not YAML"),
    ],
)
def test_a_wrong_arm_is_told_what_would_be_right(written: str, url: str, message: str) -> None:
    with pytest.raises(ArmError, match=re.escape(message)) as error:
        read_arm(written, url)
    assert "secret" not in str(error.value)


def test_arms_have_names_of_their_own_and_share_what_they_do_not_say() -> None:
    arms = read_arms(["a", "b,temperature=1"], URL, "KEY", {"temperature": 0.0, "max_tokens": 9})
    assert [dict(arm.decoding) for arm in arms] == [
        {"temperature": 0.0, "max_tokens": 9}, {"temperature": 1, "max_tokens": 9}
    ]  # fmt: skip
    with pytest.raises(ArmError, match="two arms are called 'a'; give one a name: NAME=a"):
        read_arms(["a", "a,temperature=1"], URL, "", {})
    with pytest.raises(ArmError, match="two arms or more"):
        read_arms(["a"], URL, "", {})


def test_a_key_goes_to_its_own_host_only(monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = read_arms(["a", "b=http://other:1#m"], URL, "KEY", {})
    assert (own.key_env, other.key_env) == ("KEY", "")
    monkeypatch.delenv("KEY", raising=False)
    with pytest.raises(EngineError, match=f"no KEY, which should hold the key of {URL}"):
        own.headers()
    monkeypatch.setenv("KEY", "sk-1")
    assert own.headers() == {"X-Trimtab-Policy": "a", "Authorization": "Bearer sk-1"}
    assert other.headers() == {}


# ---------------------------------------------------------------- on the wire


def test_what_answers_is_known_before_anything_is_asked() -> None:
    with ScriptedEngine(policies=("plain", "law")) as engine:
        arm, identity = find(read_arm("law", engine.url))
        assert (arm.model, identity.model, identity.digest, identity.stages) == ("toy", "toy", "law-d1", ("opo",))
        assert engine.posts == []
        with pytest.raises(ArmError, match=r"has no policy 'lex'; valid are plain, law"):
            find(read_arm("lex", engine.url))
        with pytest.raises(ArmError, match=r"has no model 'gpt'; valid are toy"):
            find(read_arm("law#gpt", engine.url))
        assert engine.posts == []


def test_an_engine_by_itself_has_models_and_no_policies() -> None:
    with FakeUpstream() as engine:
        assert find(read_arm(f"a={engine.url}"))[0].model == "echo"  # there is one only
        engine.scripts["other"] = ["x"]
        with pytest.raises(ArmError, match=r"which model of .*\? Write #MODEL; valid are echo, other"):
            find(read_arm(f"a={engine.url}"))
        assert find(read_arm(f"a={engine.url}#other"))[0].model == "other"
        with pytest.raises(ArmError, match=r"is no Trimtab server .*an engine as it is: law=.*#MODEL"):
            find(read_arm("law", engine.url))


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(EngineError, match=r"arm 'a': http://127.0.0.1:9 cannot be reached.*is it running"):
        find(read_arm("a=http://127.0.0.1:9#m"))
