"""The Ansible role: linted, and run twice against a Debian that is booted."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from packages.clean_root import FAILS, ROOT, base_of_a_host, clean_root

ANSIBLE = ROOT / "deploy/ansible"


def environment(tools: Path, work: Path) -> dict[str, str]:
    """With Ansible's programs, and its own files outside the tree."""
    return {
        "PATH": f"{tools / 'bin'}:{os.environ['PATH']}",
        "HOME": str(work),
        "ANSIBLE_HOME": str(work / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(work / "ansible/tmp"),
        "LC_ALL": "C.UTF-8",
    }


def test_the_role_is_what_ansibles_linter_likes(tools: Path, tmp_path: Path) -> None:
    lint: list[str | Path] = [
        "ansible-lint",
        "--offline",
        "--strict",
        "--profile",
        "production",
        "--project-dir",
        ANSIBLE,
    ]
    done = subprocess.run(
        [*lint, "hostdevd.yml", "roles/hostdevd"],
        cwd=ANSIBLE,
        env=environment(tools, tmp_path),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


PLAY = r"""
export PATH={tools}/bin:$PATH HOME=/root ANSIBLE_STDOUT_CALLBACK=default ANSIBLE_NOCOLOR=1
cd /ansible
play() {{
    ansible-playbook --connection local --inventory localhost, --extra-vars @/vars.json \
        --extra-vars ansible_python_interpreter=/usr/bin/python3 "$@" hostdevd.yml
}}
play --syntax-check
play
sed 's/^/config: /' /etc/hostdevd/hostdevd.toml
id -nG bin | sed 's/^/groups: /'
[ -x /etc/libvirt/hooks/qemu.d/hostdevd ]
before=$(systemctl show --value --property MainPID hostdevd.service)
echo again
play
[ "$(systemctl show --value --property MainPID hostdevd.service)" = "$before" ]
echo changed
play --extra-vars '{{"hostdevd_config": {{"simulate": true, "log": {{"level": "debug"}}}}}}' \
    --extra-vars '{{"hostdevd_start_guard": false}}'
[ "$(systemctl show --value --property MainPID hostdevd.service)" != "$before" ]
[ ! -e /etc/libvirt/hooks/qemu.d/hostdevd ]
echo refused
fails play --extra-vars '{{"hostdevd_policy": "[[deny]]\nname = \\"x\\"\ntype = \\"nonsense\\"\n"}}'
grep usb_device /etc/hostdevd/policy.toml
fails play --extra-vars '{{"hostdevd_config": {{"listen": "nonsense"}}}}'
grep -q 'level = "debug"' /etc/hostdevd/hostdevd.toml
hostdevd check
"""


def test_the_role_installs_configures_and_changes_nothing_the_second_time(
    tools: Path, deb: Path, tmp_path: Path
) -> None:
    mounts = {deb: Path("/packages") / deb.name, tools: tools, ANSIBLE: Path("/ansible")}
    variables = {
        "hostdevd_package": f"/packages/{deb.name}",
        "hostdevd_config": {"simulate": True, "log": {"format": "json"}},
        "hostdevd_policy": '[[deny]]\nname = "no sticks"\ntype = "usb_device"\n',
        "hostdevd_roles": '[[rule]]\nname = "root"\nrole = "admin"\nidentities = "uid:0"\n',
        "hostdevd_operators": ["bin"],
    }
    with clean_root(base_of_a_host(), tmp_path / "clean", mounts) as root:
        (root.path / "vars.json").write_text(json.dumps(variables))
        out = root.boot(f"{FAILS}\n{PLAY.format(tools=tools)}")
    first, rest = out.split("+ echo again\n")
    second, rest = rest.split("+ echo changed\n")
    third, refused = rest.split("+ echo refused\n")
    assert 'config: policy = "/etc/hostdevd/policy.toml"' in first
    assert 'config: roles = "/etc/hostdevd/roles.toml"' in first
    assert "groups: bin hostdevd" in first
    assert recap(second)["changed"] == 0, second
    assert recap(third)["changed"] >= 3, third  # the file, the guard, and the service that is started again
    assert "listen" in refused


def recap(output: str) -> dict[str, int]:
    """The counts of a play's last line."""
    [line] = re.findall(r"^localhost +: (.*)$", output, re.MULTILINE)
    return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", line)}


@pytest.mark.parametrize(
    "name", ["hostdevd_config", "hostdevd_package", "hostdevd_roles", "hostdevd_start_guard", "hostdevd_wait_s"]
)
def test_what_the_page_names_is_a_default_of_the_role(name: str) -> None:
    assert f"\n{name}:" in (ANSIBLE / "roles/hostdevd/defaults/main.yml").read_text()
    assert f"`{name}`" in (ROOT / "docs/packages.md").read_text()
