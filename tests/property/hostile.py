"""What nobody should send: values for every field of a request, by the field's type alone.

Requests are made from the descriptors, so that a field that is added later is covered by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from hostdev.v1 import service_pb2

LONG = "x" * 100_000
MALFORMED = ("\0", "a\0b", "a\nb", "\x1b[31m", "\x7f", "\u202e", "\ufeff", "a\tb", "x" * 257, LONG, "ä" * 300)
"""Texts that are no name of anything, whatever the field."""

ODD = (
    " ",
    "*",
    "%",
    "%s%n",
    "../../etc/passwd",
    "/dev/../proc/1/mem",
    "unix:/",
    "'; DROP TABLE assignment; --",
    '"/><hostdev mode="subsystem"/>',
    "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>",
    "]]>",
    "&#0;",
    "${jndi:ldap://localhost/a}",
    "$(reboot)",
    "{0.__class__}",
    "-1",
    "0x",
    "99999999999999999999",
    "1e999",
    "²",
    "nan",
    "00000000-0000-0000-0000-000000000000",
    "dev-00000000",
    "grp-",
    "ﬀ",
    "\U0001f4a9",
)
"""Texts that might be a name, and are one of nothing."""

_BOUNDS: Mapping[int, tuple[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
_MANY = 1001


def methods() -> list[MethodDescriptor]:
    """Every method of every service of the package."""
    services = service_pb2.DESCRIPTOR.services_by_name.values()
    return [method for service in services for method in service.methods]


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def is_list(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated) and not is_map(field)


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _entry(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor]:
    """A map's key and value."""
    assert field.message_type is not None
    return field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]


def leaves(descriptor: Descriptor, above: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The way to every field that holds a value, or a list or map of values."""
    for field in descriptor.fields:
        way = (*above, field)
        if field.message_type is not None and not is_map(field) and not is_list(field):
            yield from leaves(field.message_type, way)
        else:
            yield way


def name_of(way: Sequence[FieldDescriptor]) -> str:
    return ".".join(field.name for field in way)


def has_field(descriptor: Descriptor, path: str) -> bool:
    """Whether a path that an error names, `filter.types[2]`, leads to a field of the message."""
    first, _, rest = path.partition(".")
    field = descriptor.fields_by_name.get(first.partition("[")[0])
    if field is None or ("[" in first) > bool(field.is_repeated):
        return False
    return not rest or (field.message_type is not None and (is_map(field) or has_field(field.message_type, rest)))


# --- one field at a time --------------------------------------------------------------------------------


def values(field: FieldDescriptor) -> list[Any]:
    """Hostile values of one field, as `put` takes them."""
    if is_map(field):
        key, value = _entry(field)
        some_key, some_value = _scalars(key)[0], _scalars(value)[0]
        return [{one: some_value} for one in _scalars(key)] + [{some_key: one} for one in _scalars(value)]
    if not field.is_repeated:
        return _scalars(field)
    scalars = _scalars(field)
    return [[one] for one in scalars] + [scalars[:1] * _MANY, scalars]


def _scalars(field: FieldDescriptor) -> list[Any]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        texts = (*ODD, *MALFORMED, "")
        return [text.encode() for text in texts] if field.type == FieldDescriptor.TYPE_BYTES else list(texts)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return [True, False]
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return [{}]
    low, high = _BOUNDS[field.cpp_type]
    return [low, high, 0, 1, 99] + ([-1] if low < 0 else [])


def put(message: Any, way: Sequence[FieldDescriptor], value: Any) -> None:
    """Set the field at the end of the way."""
    for field in way[:-1]:
        message = getattr(message, field.name)
        message.SetInParent()
    field = way[-1]
    message.ClearField(field.name)
    if is_map(field):
        getattr(message, field.name).update(value)
    elif field.is_repeated and field.message_type is not None:
        for _ in value:
            getattr(message, field.name).add()
    elif field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).SetInParent()
    else:
        setattr(message, field.name, value)


# --- all at once ----------------------------------------------------------------------------------------

Known = Mapping[str, Sequence[Any]]
"""By a field's name, values that mean something on the host: else nothing but the first check is ever tried."""


@dataclass(frozen=True)
class Requests:
    """Strategies for whole requests."""

    known: Known

    def of(self, method: MethodDescriptor) -> st.SearchStrategy[Any]:
        return self._message(method.input_type)

    def _message(self, descriptor: Descriptor) -> st.SearchStrategy[Any]:
        parts = {field.name: st.none() | self._field(field) for field in descriptor.fields}
        return st.fixed_dictionaries(parts).map(lambda given: _filled(descriptor, given))

    def _field(self, field: FieldDescriptor) -> st.SearchStrategy[Any]:
        if is_map(field):
            key, value = _entry(field)
            return st.dictionaries(self._one(key), self._one(value), max_size=3)
        one = self._one(field)
        return st.lists(one, max_size=4) if field.is_repeated else one

    def _one(self, field: FieldDescriptor) -> st.SearchStrategy[Any]:
        if field.message_type is not None:
            return self._message(field.message_type)
        known = self.known.get(field.name, ())
        odd = st.sampled_from(_scalars(field)) | _free(field)
        # Mostly what is known, so that the call goes beyond its checks.
        return odd if not known else st.sampled_from(known) | st.sampled_from(known) | odd


def _free(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=40)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.text(max_size=40)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    low, high = _BOUNDS[field.cpp_type]
    return st.integers(low, high) | st.integers(0, 3)


def _filled(descriptor: Descriptor, given: Mapping[str, Any]) -> Any:
    message: Any = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        value = given[field.name]
        if value is None:
            continue
        if is_map(field):
            getattr(message, field.name).update(value)
        elif field.is_repeated:
            getattr(message, field.name).extend(value)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value)
        else:
            setattr(message, field.name, value)
    return message


# --- on the wire ----------------------------------------------------------------------------------------


def tag(number: int, wire_type: int) -> bytes:
    return varint(number << 3 | wire_type)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def no_utf8(way: Sequence[FieldDescriptor]) -> bytes:
    """A message with bytes that are no UTF-8 in the text field at the end of the way."""
    data = b"a\xff\xc0\xafb"
    for field in reversed(way):
        data = tag(field.number, 2) + varint(len(data)) + data
    return data


def wrong_types(descriptor: Descriptor) -> Iterator[bytes]:
    """Every field with another wire type than its own: a parser takes those for fields that it does not know."""
    for field in descriptor.fields:
        yield tag(field.number, 0) + varint(2**64 - 1)
        yield tag(field.number, 1) + bytes(8)
        yield tag(field.number, 2) + varint(3) + b"\x08\x96\x01"
        yield tag(field.number, 5) + bytes(4)


BROKEN: Mapping[str, bytes] = {
    "no tag": b"\xff",
    "field number 0": b"\x00\x00",
    "a length beyond the end": b"\x0a\x7f",
    "a length of 4 GiB": b"\x0a\xff\xff\xff\xff\x0f",
    "a varint without an end": b"\x18" + b"\xff" * 11,
    "a group without an end": b"\xfb\x3f",
    "groups in groups": b"\xfb\x3f" * 50_000,
    "an end without a group": b"\xfc\x3f",
    "wire type 7": b"\x0f",
}


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Some bytes of a message gone, and others in their place."""
    return st.builds(
        lambda start, length, middle: whole[:start] + middle + whole[start + length :],
        st.integers(0, max(len(whole), 1)),
        st.integers(0, 8),
        st.binary(max_size=8),
    )
