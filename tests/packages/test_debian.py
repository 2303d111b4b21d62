"""The Debian package in a clean Debian: what it brings, then its life: run by its unit, upgraded, removed, purged."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from packages.building import OLDER, version
from packages.clean_root import FAILS, CleanRoot, base_of_a_host, clean_root

# Without a terminal dpkg cannot ask about a configuration that both sides have changed.
INSTALL = "apt-get -qq -y -o Dpkg::Options::=--force-confold --no-install-recommends install"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, deb: Path) -> Iterator[CleanRoot]:
    """A Debian that the package was installed in, without a running systemd."""
    mounts = {deb: Path("/packages/new.deb")}
    with clean_root(base_of_a_host(), tmp_path_factory.mktemp("installed"), mounts) as root:
        root.run(f"{INSTALL} /packages/new.deb")
        yield root


def test_it_brings_all_that_belongs_to_the_service(installed: CleanRoot) -> None:
    out = installed.run("""
        hostdevd --version
        hostdevctl --version
        hostdevd config check
        stat -c '%n %a %U:%G' /etc/hostdevd /var/lib/hostdevd /etc/hostdevd/hostdevd.toml
        ls /usr/share/polkit-1/rules.d /usr/share/hostdevd/hooks/qemu.d
        systemctl is-enabled hostdevd.service
    """)
    assert f"hostdevd {version()}\nhostdevctl {version()}\n" in out
    assert "/etc/hostdevd/hostdevd.toml: is right\n" in out
    assert "/etc/hostdevd 755 root:root\n/var/lib/hostdevd 700 hostdevd:hostdevd\n" in out
    assert "/etc/hostdevd/hostdevd.toml 644 root:root\n" in out
    assert "50-hostdevd.rules\n" in out
    assert out.endswith("enabled\n")


def test_the_units_user_serves_a_simulated_host(installed: CleanRoot) -> None:
    out = installed.run(
        """
        cd "$(mktemp -d)"
        hostdevd serve --simulate --listen unix:/tmp/h.sock --state-dir /var/lib/hostdevd >out 2>log & service=$!
        i=0; until grep -q listening out || [ $((i += 1)) -gt 200 ]; do sleep 0.1; done
        hostdevctl --address unix:/tmp/h.sock devices | grep -c pci_
        hostdevd check --address unix:/tmp/h.sock >/dev/null
        kill $service
        wait $service
        """,
        user="hostdevd",
    )
    assert int(out) > 10


def test_bash_completes_both_programs_and_the_other_shells_have_their_files(installed: CleanRoot) -> None:
    out = installed.run("""
        completions=/usr/share/bash-completion/completions
        bash -c '. $0/hostdevctl; COMP_WORDS=(hostdevctl elig) COMP_CWORD=1
            _hostdevctl_completion hostdevctl; echo "${COMPREPLY[@]}"' $completions
        bash -c '. $0/hostdevd; COMP_WORDS=(hostdevd ser) COMP_CWORD=1
            _shtab_hostdevd; echo "${COMPREPLY[@]}"' $completions
        grep -l '^#compdef' /usr/share/zsh/vendor-completions/_hostdevd /usr/share/zsh/vendor-completions/_hostdevctl
        grep -l '^complete' /usr/share/fish/vendor_completions.d/hostdevd.fish \
            /usr/share/fish/vendor_completions.d/hostdevctl.fish
    """)
    assert out.splitlines()[:2] == ["eligible", "serve"]


@pytest.mark.parametrize(
    ("page", "told"),
    [("man1/hostdevctl.1", "attach"), ("man5/hostdevd.toml.5", "state_dir"), ("man8/hostdevd.8", "serve")],
)
def test_a_man_page_is_without_fault(deb: Path, page: str, told: str) -> None:
    # From the package: roots made small leave man pages out.
    files = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, stdout=subprocess.PIPE).stdout
    script = f"tar -xO ./usr/share/man/{page}.gz | gunzip | MANWIDTH=120 man --warnings --local-file -"
    shown = subprocess.run(["sh", "-c", script], input=files, check=True, capture_output=True)
    assert shown.stderr == b"", shown.stderr
    assert told in shown.stdout.decode()


def test_lintian_finds_nothing_that_is_not_explained(deb: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", deb],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


LIFE = f"""{FAILS}
ready() {{ i=0; until hostdevd check >/dev/null 2>&1 || [ $((i += 1)) -gt 60 ]; do sleep 1; done; hostdevd check; }}
process() {{ systemctl show --value --property MainPID hostdevd.service; }}

# It starts at once, and waits for a libvirt that is not there.
{INSTALL} /packages/old.deb
systemctl is-active hostdevd.service
fails hostdevd check
sed -i 's/^#simulate = .*/simulate = true/' /etc/hostdevd/hostdevd.toml
systemctl restart hostdevd.service
ready
hostdevd --version
hostdevctl attach alpha pci_0000_04_00_0 --yes
before=$(process)

{INSTALL} /packages/new.deb
systemctl is-active hostdevd.service
[ "$(process)" != "$before" ]
ready
hostdevd --version
grep '^simulate = true' /etc/hostdevd/hostdevd.toml
hostdevctl assignments

apt-get -qq -y remove hostdevd
fails systemctl is-active hostdevd.service
[ ! -e /usr/bin/hostdevd ]
grep '^simulate = true' /etc/hostdevd/hostdevd.toml
[ -e /var/lib/hostdevd/state.sqlite ]

{INSTALL} /packages/new.deb
ready
hostdevctl assignments | grep 'alpha.*ATTACHED' | sed 's/^/again /'

apt-get -qq -y purge hostdevd
getent passwd hostdevd
"""


def test_an_upgrade_keeps_the_state_and_the_configuration_and_purge_leaves_nothing(
    tmp_path: Path, built: dict[str, Path]
) -> None:
    mounts = {built[name]: Path(f"/packages/{name}.deb") for name in ("new", "old")}
    with clean_root(base_of_a_host(), tmp_path / "clean", mounts) as root:
        out = root.boot(LIFE)
        left = {path for path in root.added() if "hostdevd" in path and not path.startswith("/var/log/")}
    assert f"hostdevd {OLDER}\n" in out
    assert f"hostdevd {version()}\n" in out
    after = out.partition("+ hostdevctl assignments\n")[2]
    assert re.match(r"NAME .*\n\S+ +alpha +ATTACHED .*pci_0000_04_00_0", after), after
    assert re.search(r"^again .*alpha", out, re.MULTILINE), out
    assert left == set()
