"""The manifest for Kubernetes: what its schemas take, and what the server has and does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
import yaml
from planted import TOKEN
from server_rig import running

from lifecycle.cli import main
from lifecycle.cli.app import command
from lifecycle.errors import ConfigError
from lifecycle.server.app import check_token
from lifecycle.server.deployment import alert_rules, longest_drain, manifest
from lifecycle_adapters.memory import MemoryAdapter

PARTS = {part["kind"]: part for part in yaml.safe_load_all(manifest())}
POD = PARTS["StatefulSet"]["spec"]["template"]
(SERVER,) = POD["spec"]["containers"]
ENV = {entry["name"]: entry for entry in SERVER["env"]}
NAMESPACE = "crawling"


def serves():
    """What the arguments of the container mean to the command."""
    program, *words = (word.replace("$(NAMESPACE)", NAMESPACE) for word in SERVER["args"])
    assert program == "lifecycle"
    top = command()
    with top.make_context("lifecycle", words) as context:
        name, sub, rest = top.resolve_command(context, words)
        assert name == "serve"
        return sub.make_context("serve", rest, parent=context).params


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_the_schemas_of_kubernetes_take_it(version):
    assert PARTS.keys() == {"Secret", "Service", "StatefulSet"}
    for part in PARTS.values():
        kubernetes_validate.validate(part, version, strict=True)


def test_its_arguments_and_ports_are_those_of_the_command():
    given = serves()
    assert given["host"] == "0.0.0.0"
    assert given["allow_remote"] and given["deny_private"]
    assert not (given["metrics_without_token"] or given["no_token"] or given["allow_chrome_args"])
    (port,), (public,) = SERVER["ports"], PARTS["Service"]["spec"]["ports"]
    name = PARTS["Service"]["metadata"]["name"]
    assert given["port"] == port["containerPort"] == public["port"]
    assert public["targetPort"] == port["name"]
    assert given["public_url"] == f"http://{name}.{NAMESPACE}:{public['port']}"
    assert ENV["NAMESPACE"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"


def test_its_probes_are_answered_without_the_key_as_the_node_asks_them():
    """By the address of the pod; and clients by the name of the service, and no other."""
    public_url = serves()["public_url"]
    paths = {SERVER[f"{kind}Probe"]["httpGet"]["path"]: kind for kind in ("startup", "liveness", "readiness")}
    assert paths == {"/health": "liveness", "/ready": "readiness"}
    assert all(SERVER[f"{kind}Probe"]["httpGet"]["port"] == "http" for kind in ("startup", "liveness", "readiness"))
    with running(adapter=MemoryAdapter(), store="memory:", allow_remote=True, public_url=public_url) as server:
        with httpx.Client(base_url=server.url, trust_env=False) as http:
            for path in paths:
                answer = http.get(path, headers={"Host": "10.42.0.7:8700", "User-Agent": "kube-probe/1.31"})
                assert answer.status_code == 200
            host = {"Host": public_url.removeprefix("http://"), "Authorization": f"Bearer {TOKEN}"}
            assert http.get("/sessions/", headers=host).status_code == 200
            assert http.get("/sessions/", headers={**host, "Host": "elsewhere:8700"}).status_code == 403
        server.app.state.hosting.closing = True
        assert {path: httpx.get(f"{server.url}{path}", trust_env=False).status_code for path in paths} == {
            "/health": 200,
            "/ready": 503,
        }


def test_the_pod_has_the_time_that_its_sessions_need_to_end():
    grace = POD["spec"]["terminationGracePeriodSeconds"]
    assert longest_drain() < grace < longest_drain() + 60
    probe = SERVER["livenessProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= 60, "a restart ends all sessions"


def test_its_secret_is_where_the_command_looks_and_the_server_does_not_start_with_what_stands_there():
    secret = PARTS["Secret"]
    variables = {"LIFECYCLE_TOKEN": "token", "LIFECYCLE_STORE": "store"}
    for variable, key in variables.items():
        assert ENV[variable]["valueFrom"]["secretKeyRef"] == {"name": secret["metadata"]["name"], "key": key}
    assert secret["stringData"].keys() == set(variables.values())
    (token,) = (p for p in command().commands["serve"].params if p.name == "token")
    assert token.envvar == "LIFECYCLE_TOKEN"
    with pytest.raises(ConfigError, match="at least 16"):
        check_token(secret["stringData"]["token"])
    assert TOKEN not in manifest()


def test_its_parts_find_each_other():
    labels = POD["metadata"]["labels"]
    assert PARTS["Service"]["spec"]["selector"] == labels == PARTS["StatefulSet"]["spec"]["selector"]["matchLabels"]
    assert PARTS["StatefulSet"]["spec"]["serviceName"] == PARTS["Service"]["metadata"]["name"]
    assert PARTS["Service"]["spec"]["publishNotReadyAddresses"] is True, "an ending pod answers for its sessions"
    claimed = {claim["metadata"]["name"] for claim in PARTS["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    volumes = claimed | {volume["name"] for volume in POD["spec"]["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in SERVER["volumeMounts"]}
    assert set(mounts.values()) == volumes
    assert mounts[ENV["HOME"]["value"]] in claimed, "rescue files outlive the pod"
    assert "/tmp" in mounts, "the profiles of browsers, in a container that can't be written elsewhere"


def test_it_may_do_no_more_than_chromium_needs():
    pod, container = POD["spec"]["securityContext"], SERVER["securityContext"]
    assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0
    assert pod["seccompProfile"] == {"type": "Unconfined"}, "RuntimeDefault forbids the user namespaces of its sandbox"
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert POD["spec"]["automountServiceAccountToken"] is False
    assert POD["spec"]["shareProcessNamespace"] is True
    assert POD["spec"]["enableServiceLinks"] is False
    assert "--no-sandbox" not in manifest()
    assert SERVER["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in SERVER["resources"]["limits"]


@pytest.mark.parametrize(("which", "text"), [("kubernetes", manifest()), ("prometheus", alert_rules())])
def test_the_command_prints_them_and_serves_nothing(capsys, which, text):
    assert main(["serve", "--print", which]) == 0
    assert capsys.readouterr() == (text, "")
    assert not re.search(r"@\{|@@", text)


def test_the_commands_that_they_name_exist():
    for text in (manifest(), alert_rules(), Path(__file__).parent.parent.joinpath("README.md").read_text()):
        named = {" ".join(found.split()) for found in re.findall(r"`(lifecycle [a-z][^`|]+)`", text)}
        assert named
        for line in named:
            _, *words = shlex.split(line)
            words = [re.split(r"[=,]", word)[0] for word in words]
            sub = command()
            while words and words[0] in getattr(sub, "commands", {}):
                sub = sub.commands[words.pop(0)]
            options = {option for param in sub.params for option in param.opts + param.secondary_opts}
            assert {word for word in words if word.startswith("-")} <= options | {"--help"}, line
            assert not getattr(sub, "commands", {}) or not words, line
