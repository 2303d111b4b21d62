"""The manifests against Kubernetes' own schema, and against what the server says that it must see of the host."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

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
