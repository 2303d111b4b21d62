#!/usr/bin/env python3
"""Fetch libvirt's own node device documents and their schema, for the tests in this directory.

They are in libvirt's source package (tests/nodedev*, src/conf/schemas) and are not ours to keep in this
repository. apt fetches them from the distribution's registry that this machine already uses: the version of
the machine's own release, and the newest one that the same registry serves. apt works in directories of its
own here, so the machine's lists, configuration and hooks stay untouched, and root is not needed.

The outcome, a directory per libvirt version, is kept for a week; --force fetches anew.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hostdevd" / "libvirt-corpus"
FRESH_SECONDS = 7 * 24 * 3600
ETC_APT = Path("/etc/apt")

NEWER_SUITES = {"debian": ("sid", "testing", "stable"), "ubuntu": ("devel",)}
"""The names under which each distribution's registry has what is newer than any release."""

WANTED = re.compile(
    r"tests/nodedev(?:schemadata|mdevctldata|xml2xmlout)/[^/]+\.xml|(?:src/conf|docs)/schemas/[^/]+\.rng"
)


class FetchFailed(Exception):
    """The registry did not serve what the tests need."""


# --- apt's sources ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sources:
    """apt's sources by file name, `*.list` in lines and `*.sources` in stanzas."""

    files: dict[str, str]

    @classmethod
    def of_the_machine(cls, etc: Path = ETC_APT) -> Sources:
        """What the machine installs from."""
        files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
        return cls(
            {
                file.name: file.read_text("utf-8")
                for file in files
                if file.suffix in {".list", ".sources"} and file.is_file()
            }
        )

    def of_packages_source(self, suite: str | None = None) -> Sources:
        """The same registries, asked for source packages; of another suite, those that serve a whole release."""
        read = {
            name: (_stanzas if name.endswith(".sources") else _lines)(text, suite) for name, text in self.files.items()
        }
        return Sources({name: text for name, text in read.items() if text})


def _lines(text: str, suite: str | None) -> str:
    found = re.finditer(r"^[ \t]*deb[ \t]+(\[[^\]]*\][ \t]+)?(\S+)[ \t]+(\S+)([^#\n]*)", text, re.MULTILINE)
    chosen = {
        f"deb-src {options or ''}{uri} {suite or own}{components}".rstrip()
        for options, uri, own, components in (match.groups() for match in found)
        if suite is None or _is_release(own)
    }
    return "".join(f"{line}\n" for line in sorted(chosen))


def _stanzas(text: str, suite: str | None) -> str:
    chosen = []
    for stanza in re.split(r"\n(?:[ \t]*\n)+", text):
        types = re.search(r"^Types:(.*)$", stanza, re.MULTILINE | re.IGNORECASE)
        own = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE | re.IGNORECASE)
        if types is None or own is None or "deb" not in types[1].split():
            continue
        asked = re.sub(r"(?im)^Types:.*$", "Types: deb-src", stanza)
        if suite is not None:
            if not any(map(_is_release, own[1].split())):
                continue
            asked = re.sub(r"(?im)^Suites:.*$", f"Suites: {suite}", asked)
        chosen.append(asked.strip("\n") + "\n")
    return "\n".join(chosen)


def _is_release(suite: str) -> bool:
    return re.fullmatch(r"[a-z]+", suite) is not None  # no `bookworm-updates`, no `./`


# --- apt -------------------------------------------------------------------------------------------------


class Apt:
    """The ordinary client, with nothing of its own outside of `home`."""

    def __init__(self, home: Path, sources: Sources) -> None:
        self._home = home
        for directory in ("parts", "lists/partial", "cache/archives/partial", "files"):
            (home / directory).mkdir(parents=True)
        for name, text in sources.files.items():
            (home / "parts" / name).write_text(text, "utf-8")
        settings = home / "apt.conf"
        settings.write_text(_settings(home), "utf-8")
        self._environment = os.environ | {"APT_CONFIG": str(settings), "LC_ALL": "C"}

    def update(self) -> str:
        """Read what there is; what went wrong is text, for some other source may do."""
        return self._run("apt-get", "update", "--quiet=2").stderr.strip()

    def versions(self) -> list[str]:
        """The versions of libvirt's source package, newest first."""
        rows = self._run("apt-cache", "madison", "libvirt").stdout.splitlines()
        found = [cells[1] for row in rows if len(cells := [cell.strip() for cell in row.split("|")]) > 1]
        return sorted(set(found), key=_order, reverse=True)

    def original(self, version: str) -> Path:
        """What libvirt released as this version, verified by apt."""
        # The distribution's own changes are not wanted, and registries keep the original the longest.
        done = self._run("apt-get", "source", "--quiet=2", "--download-only", "--tar-only", "--only-source",
                         f"libvirt={version}")  # fmt: skip
        found = sorted((self._home / "files").glob("libvirt_*.orig.tar.*"))
        if done.returncode or not found:
            raise FetchFailed(f"libvirt {version}: {done.stderr.strip() or 'no original'}")
        return found[-1]

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                check=False,
                cwd=self._home / "files",
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FetchFailed(f"{shlex.join(command)}: {error}") from error


def _settings(home: Path) -> str:
    # How to reach the registry is the machine's to say (a proxy); its hooks are for its own packages.
    try:
        reach = subprocess.run(["apt-config", "dump", "Acquire"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise FetchFailed(f"apt is needed: {error}") from error
    own = {
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": home / "parts",
        "Dir::State::lists": home / "lists",
        "Dir::Cache": home / "cache",
        "APT::Sandbox::User": "root",  # no other user may read these directories
        "APT::Install-Recommends": "false",
    }
    return reach + "".join(f'{name} "{value}";\n' for name, value in own.items())


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


# --- the corpus ------------------------------------------------------------------------------------------


def fetch(into: Path) -> list[str]:
    """The machine's own release's libvirt and the newest one; the directories' names."""
    machine = Sources.of_the_machine()
    told: list[str] = []
    done = [_newest(machine.of_packages_source(), into, told)]
    for suite in NEWER_SUITES.get(_distribution(), ()):
        done.append(_newest(machine.of_packages_source(suite), into, told))
        if done[-1]:
            break
    for line in told:
        print(line, file=sys.stderr)
    names = sorted({name for name in done if name}, key=_order)
    if not names:
        raise FetchFailed("the registries of this machine serve no source package of libvirt (the lines above say why)")
    return names


def _newest(sources: Sources, into: Path, told: list[str]) -> str | None:
    """Unpack the newest version that these sources list and serve; lists name more than some mirrors keep."""
    with tempfile.TemporaryDirectory(prefix="hostdevd-corpus-") as home:
        apt = Apt(Path(home), sources)
        trouble = apt.update()
        versions = apt.versions()
        if not versions:
            told.append(f"no version of libvirt listed: {trouble or 'no source that has it'}")
        for version in versions:
            try:
                return unpack(apt.original(version), into)
            except FetchFailed as failed:
                told.append(f"not served: {failed}")
    return None


def unpack(archive: Path, into: Path) -> str:
    """The corpus and the schemas of one archive, into a directory named after the version."""
    version = archive.name.removeprefix("libvirt_").partition(".orig.")[0]
    with tarfile.open(archive) as packed:
        for place, member in _wanted(packed):
            data = packed.extractfile(member)
            if data is not None:
                file = into / version / place
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data.read())
    if not (into / version).exists():
        raise FetchFailed(f"{archive.name} holds no node device documents")
    return version


def _wanted(packed: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Plain files only: a link leads to a document that is there already."""
    for member in packed:
        place = PurePosixPath(member.name)
        path = "/".join(place.parts[1:])
        if member.isfile() and WANTED.fullmatch(path):
            yield ("schemas/" if place.suffix == ".rng" else "documents/" + place.parts[-2] + "/") + place.name, member


def _distribution() -> str:
    release = Path("/etc/os-release")
    text = release.read_text("utf-8") if release.exists() else ""
    names = re.findall(r"^ID(?:_LIKE)?=\"?([^\"\n]*)", text, re.MULTILINE)
    return next((name for name in " ".join(names).split() if name in NEWER_SUITES), "")


def kept(directory: Path | None = None) -> list[str]:
    """The versions that are there, oldest first."""
    return sorted((path.name for path in (directory or CACHE).glob("[0-9]*") if path.is_dir()), key=_order)


def main(arguments: Iterable[str] | None = None) -> int:
    """0 when the corpus is there, 1 when it cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--force", action="store_true", help="fetch even when a fresh corpus is there")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.force or not kept() or time.time() - CACHE.stat().st_mtime > FRESH_SECONDS:
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE.parent, prefix="libvirt-corpus-") as new:
            try:
                fetch(Path(new))
            except FetchFailed as failed:
                print(f"libvirt's node device documents cannot be fetched: {failed}", file=sys.stderr)
                return 1
            shutil.rmtree(CACHE, ignore_errors=True)
            shutil.copytree(new, CACHE)
    print(f"libvirt {', '.join(kept())} in {CACHE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
