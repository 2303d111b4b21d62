"""Certificates of tests, made by the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """An authority of its own, with its files in a directory."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._own = Pair(directory / f"{name}.pem", directory / f"{name}.key")
        self._run("req", "-x509", "-subj", f"/CN={name}", *self._new_key(self._own), "-out", self._own.certificate)

    @property
    def certificate(self) -> Path:
        """What those have who trust it."""
        return self._own.certificate

    def issue(self, name: str, *sans: str) -> Pair:
        """A certificate with these subject alternative names, in files of this name; an older one is overwritten."""
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        self._run("req", "-subj", f"/CN={name}", *self._new_key(pair), "-out", request)
        extensions.write_text(f"subjectAltName={','.join(sans)}\n" if sans else "basicConstraints=CA:FALSE\n")
        signed = ("-CA", self._own.certificate, "-CAkey", self._own.key, "-CAcreateserial", "-days", "2")
        self._run("x509", "-req", "-in", request, *signed, "-extfile", extensions, "-out", pair.certificate)
        pair.key.chmod(0o600)
        return pair

    def encrypt(self, key: Path, to: Path) -> None:
        """A key that needs a password."""
        self._run("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", to)
        to.chmod(0o600)

    @staticmethod
    def _new_key(pair: Pair) -> tuple[str | Path, ...]:
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", pair.key

    @staticmethod
    def _run(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)
