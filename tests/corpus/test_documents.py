"""Every valid document of libvirt's own tests is read, and nothing that it says is lost."""

from __future__ import annotations

import pytest

from corpus.documents import REQUIRED, Document, documents, schema, valid_documents
from corpus.fetch import kept
from corpus.leaves import lost
from corpus.rendering import rendered
from corpus.schema import Schema, uncovered

FEWEST = 45
"""libvirt 9.0 has 50 files in tests/nodedevschemadata alone; documents are only ever added."""

pytestmark = pytest.mark.skipif(not kept() and not REQUIRED, reason="tests/corpus/fetch.py fetches the documents")


def test_the_corpus_is_there() -> None:
    assert kept(), "run tests/corpus/fetch.py"


@pytest.mark.parametrize("version", kept())
def test_the_corpus_is_as_large_as_libvirts(version: str) -> None:
    valid = [document for document in valid_documents() if document.version == version]
    assert len(valid) >= FEWEST


@pytest.mark.parametrize("version", kept())
def test_what_libvirt_itself_calls_invalid_is_what_the_schema_refuses(version: str) -> None:
    refused = [document.place for document in documents() if document.version == version and not document.valid]
    assert refused
    assert all("-invalid" in place for place in refused)


@pytest.mark.parametrize("document", valid_documents(), ids=str)
def test_a_valid_document_is_read_without_a_loss(document: Document) -> None:
    device = rendered(document.xml)
    # One of them is on bus 4294967295, as functions without a bus were: that is told, and is no address.
    assert all(condition.message.endswith("has no usable address") for condition in device.conditions)
    assert device.type != "other"
    assert not device.other_capabilities
    assert lost(document.xml, rendered) == []


@pytest.mark.parametrize("document", documents(), ids=str)
def test_an_invalid_document_is_listed_too(document: Document) -> None:
    assert rendered(document.xml).name


@pytest.mark.parametrize("version", kept())
def test_the_table_has_a_rule_for_every_place_of_the_schema(version: str) -> None:
    assert uncovered(Schema(schema(version))) == []
