"""The manifests against Kubernetes' own schema, and against what the server says that it must see of the host."""

from __future__ import annotations

import grp
import os
import re
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from hostdevd.config import Config
from packages.building import version
from packages.clean_root import ROOT

MANIFEST = ROOT / "deploy/kubernetes/hostdevd.yaml"
VERSIONS = ("1.28", "1.37")
"""The oldest that is looked at, and the newest that the validator knows."""


def faults(tools: Path, manifest: Path, kubernetes: str) -> str:
    """What the validator says, strictly: also about keys that are unknown; empty when nothing."""
    command: list[str | Path] = [
        tools / "bin/kubernetes-validate",
        "--strict",
        "--kubernetes-version",
        kubernetes,
        manifest,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


def documents() -> dict[str, Any]:
    """The manifest's objects by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(MANIFEST.read_text())}


def pod() -> Any:
    """What the DaemonSet runs."""
    return documents()["DaemonSet"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_the_manifests_fit_the_schema(tools: Path, kubernetes: str) -> None:
    assert faults(tools, MANIFEST, kubernetes) == ""


def test_the_validator_sees_a_key_that_is_none(tools: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(MANIFEST.read_text().replace("hostPID: true", "hostPids: true"))
    assert "hostPids" in faults(tools, wrong, VERSIONS[-1])


def test_it_sees_what_the_server_reads_and_may_write_only_its_own() -> None:
    [container] = pod()["containers"]
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    written = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    assert written == {"/var/lib/hostdevd", "/run/hostdevd"}
    assert {"/sys", "/dev", "/run/udev", "/run/libvirt", "/lib/modules"} <= mounts.keys()
    assert pod()["hostPID"] is True
    assert pod()["hostNetwork"] is True
    assert {one["name"] for one in pod()["volumes"]} == {one["name"] for one in mounts.values()}
    # What is mounted from the host is mounted where it is there: paths in answers and in libvirt's XML are the host's.
    host = {one["name"]: one["hostPath"]["path"] for one in pod()["volumes"] if "hostPath" in one}
    assert all(mount["mountPath"] == host[mount["name"]] for mount in mounts.values() if mount["name"] in host)
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["privileged"] is context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True


def helper_socket() -> dict[str, str]:
    """The settings of the helper's socket unit."""
    lines = (ROOT / "deploy/systemd/hostdevd-sriov.socket").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]\w+=", line))


def test_the_helper_that_sets_virtual_functions_is_where_it_is_looked_for() -> None:
    path = Config().sriov_socket
    assert helper_socket()["ListenStream"] == str(path)
    [container] = pod()["containers"]
    mounts = [one["mountPath"] for one in container["volumeMounts"]]
    assert str(path.parent) in mounts  # the directory: a new socket in it is found, too
    packages = (ROOT / "docs/packages.md").read_text()
    assert f"--volume {path.parent}:{path.parent}:ro" in packages


CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(sys.argv[1])
"""


def test_the_pods_user_reaches_the_helpers_socket_and_others_do_not() -> None:
    """With the unit's owner and mode, as the manifest's user without a capability, by a mount that is read-only."""
    settings = helper_socket()
    [container] = pod()["containers"]
    context = container["securityContext"]
    assert (settings["SocketUser"], context["capabilities"]) == ("hostdevd", {"drop": ["ALL"]})
    owner = 971
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listener:
        directory = Path(name)
        directory.chmod(0o755)
        path = directory / "helper.sock"
        listener.bind(str(path))
        listener.listen()
        os.chown(path, owner, grp.getgrnam(settings["SocketGroup"]).gr_gid)
        path.chmod(int(settings["SocketMode"], 8))

        def connects(uid: int, gid: int) -> bool:
            bare = "--clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs"
            user = f"setpriv --reuid {uid} --regid {gid} {bare}"
            mounted = f"mount --bind {name} {name} && mount -o remount,ro,bind {name}"
            script = f"{mounted} && ! touch {name}/x 2>/dev/null && exec {user} /usr/bin/python3 -c '{CONNECT}' {path}"
            command = ["unshare", "--mount", "sh", "-c", script]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0 or "PermissionError" in done.stderr, done.stderr
            return done.returncode == 0

        assert connects(context["runAsUser"], context["runAsGroup"])
        assert connects(owner, owner)
        assert not connects(owner + 1, owner)


def test_its_probes_are_answered_whatever_the_roles_are() -> None:
    [container] = pod()["containers"]
    alive = container["livenessProbe"]["exec"]["command"]
    assert alive[:3] == ["hostdevd", "check", "--alive"]
    # Its configuration is not read: one that is broken since must not end a service that runs.
    assert f'listen = ["{alive[alive.index("--address") + 1]}"]' in documents()["ConfigMap"]["data"]["hostdevd.toml"]
    for name in PROBES:
        command, probe = container[name]["exec"]["command"], container[name]
        assert command[:2] == ["hostdevd", "check"]  # tests/cli/test_check.py: with roles that leave its user out
        assert int(command[command.index("--timeout") + 1]) < probe["timeoutSeconds"]


def test_its_configuration_is_right_and_its_commands_are_there(tmp_path: Path) -> None:
    file = tmp_path / "hostdevd.toml"
    file.write_text(documents()["ConfigMap"]["data"]["hostdevd.toml"])
    subprocess.run(["hostdevd", "config", "check", "--config", file], check=True)
    [container] = pod()["containers"]
    for command in (["hostdevd", *container["args"]], *(container[one]["exec"]["command"] for one in PROBES)):
        verb = [command[0], command[1], "--help"]
        shown = subprocess.run(verb, check=True, stdout=subprocess.PIPE, text=True, env=None).stdout
        for option in re.findall(r"--[a-z-]+", " ".join(command)):
            assert option in shown


PROBES = ("readinessProbe", "livenessProbe")


def test_the_image_is_the_one_that_is_built_here() -> None:
    assert pod()["containers"][0]["image"] == f"hostdevd:{version()}"
