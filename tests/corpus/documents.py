"""The documents that `fetch.py` has put in the cache, each with its libvirt's version and schema."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lxml import etree

from corpus.fetch import CACHE, kept

REQUIRED = bool(os.environ.get("HOSTDEVD_REQUIRE_CORPUS"))
"""Set by tests/run: without the corpus the tests fail, where they are skipped else."""


@dataclass(frozen=True)
class Document:
    """One `<device>` of the corpus."""

    version: str
    place: str
    xml: str
    valid: bool

    def __str__(self) -> str:
        return f"{self.version}/{self.place}"


def schema(version: str) -> Path:
    """This libvirt's schema of node devices; the ones that it includes lie beside it."""
    return CACHE / version / "schemas" / "nodedev.rng"


@cache
def documents() -> tuple[Document, ...]:
    """All of the corpus, every text once for each version."""
    return tuple(document for version in kept() for document in _of_version(version))


def valid_documents() -> list[Document]:
    """Those that their own libvirt's schema accepts."""
    return [document for document in documents() if document.valid]


def _of_version(version: str) -> Iterator[Document]:
    accepts = etree.RelaxNG(etree.parse(schema(version)))
    folder = CACHE / version / "documents"
    seen = set()
    for path in sorted(folder.glob("*/*.xml")):
        for number, device in enumerate(_devices(path.read_text("utf-8"))):
            xml = etree.tostring(device, encoding="unicode", with_tail=False)
            if xml not in seen:
                seen.add(xml)
                place = str(path.relative_to(folder)) + (f"#{number}" if number else "")
                yield Document(version, place, xml, accepts.validate(etree.fromstring(xml)))


def _devices(text: str) -> Iterator[etree._Element]:
    # Some files hold the devices of one listing, one after the other.
    body = re.sub(r"<\?xml.*?\?>", "", text)
    yield from etree.fromstring(f"<all>{body}</all>").iterchildren("device")
