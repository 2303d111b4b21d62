"""What rules say of devices, in the policy and in the roles file: matchers by key, each with its values.

Matchers are `type`, `class`, `id`, `address` (notation: `core/matching.py`), `uid` and `driver` (both exact).
Reading raises ValueError with what would be right; who reads adds where that stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from hostdevd.core.matching import Values, address_of, class_of, id_of, read_address, read_class, read_id
from hostdevd.core.model import NodeDevice

SHOWN_CHARACTERS = 100
"""How much of a wrong value is told."""

Traits = Mapping[str, str]
"""What rules look at of one device: a text by the key of the matcher, empty where it has none."""

Matchers = tuple[tuple[str, Values], ...]
"""The values of a rule by key."""


def traits(device: NodeDevice, uid: str, driver: str | None) -> Traits:
    """A device as rules look at it.

    `driver` is the host's own: while hostdevd has the device bound to vfio-pci, the one that it took it from.
    """
    return {
        "type": device.type,
        "class": class_of(device),
        "id": id_of(device),
        "address": address_of(device),
        "uid": uid,
        "driver": driver or "",
    }


def lasting_traits(device: NodeDevice) -> tuple[tuple[str, str], ...]:
    """What rules look at besides the uid and the driver, of which holders have the one and nobody keeps the other."""
    return tuple((key, text) for key, text in traits(device, "", None).items() if text)


def from_lasting(lasting: Iterable[tuple[str, str]], uid: str, driver: str | None = None) -> Traits:
    """The traits of a device that may be gone, from what was kept of it."""
    return {**_NOTHING, **dict(lasting), "uid": uid, "driver": driver or ""}


def fits(matchers: Matchers, device: Traits) -> bool:
    """Values of one matcher are ORed, matchers ANDed."""
    for key, values in matchers:  # noqa: SIM110  it runs for all devices and rules: no generator
        if not values.fit(device[key]):
            return False
    return True


def _exact(text: str) -> str:
    if not text or text != text.strip() or not text.isprintable() or "*" in text:
        raise ValueError("must be the exact text, without * or spaces around it")
    return text


# How a written value is brought into normal form; ValueError says what would be right.
_READ: Mapping[str, Callable[[str], str]] = {
    "type": _exact,
    "class": read_class,
    "id": read_id,
    "address": read_address,
    "uid": _exact,
    "driver": _exact,
}
MATCHERS = tuple(_READ)
_NOTHING = dict.fromkeys(MATCHERS, "")


def read_matchers(table: Mapping[str, object], types: frozenset[str]) -> Matchers:
    """The matchers among the keys of a table, one at least; `types` are those that `type` may name."""
    matchers = tuple((key, Values.of(_values(key, table[key], types))) for key in MATCHERS if key in table)
    if not matchers:
        raise ValueError(f"has no matcher; it needs one or more of {', '.join(MATCHERS)}")
    return matchers


def _values(key: str, given: object, types: frozenset[str]) -> Iterator[str]:
    for value in texts(key, given):
        try:
            if key == "type" and value not in types:
                raise ValueError(f"must be one of {', '.join(sorted(types))}")  # noqa: TRY301  told as the others are
            yield _READ[key](value)
        except ValueError as error:
            raise ValueError(f"{key}: {shown(value)} {error}") from None


def texts(key: str, given: object) -> tuple[str, ...]:
    """One text or a list of them."""
    values = given if isinstance(given, list) else [given]
    if not values:
        raise ValueError(f"{key}: an empty list fits nothing; leave the key out")
    if not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key}: must be text, or a list of texts")
    return tuple(values)


def shown(value: str) -> str:
    """A wrong value as it is told."""
    return repr(value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}...")


def read_text(given: object, most: int) -> str:
    """Text for people: line breaks and runs of spaces become one space."""
    if not isinstance(given, str):
        raise ValueError("must be text")  # noqa: TRY004  as everything else that is wrong in a file
    text = " ".join(given.split())
    if not text.isprintable() or len(text) > most:
        raise ValueError(f"must be printable, and no longer than {most} characters")
    return text
