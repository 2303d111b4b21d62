"""The operator's roles file: who may what (api.md, "Errors": `NOT_ALLOWED`; quality.md, "Security").

The file is TOML, a list of rules:

    [[rule]]
    name = "storage team"                         # of every rule, unique in the file
    comment = "ask #storage"                      # optional
    role = "operator"                             # viewer, operator or admin
    identities = ["group:storage", "uid:1007"]    # any of them
    vms = ["db-*", "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"]   # optional: these machines alone

    [[rule.devices]]                              # optional: these devices alone. In one table all must fit,
    class = "01"                                  # several tables are alternatives
    address = "0000:05:*"

Identities: `uid:1000`, `user:alice`, `gid:107`, `group:kvm`; a certificate's `DNS:host.example`, `URI:...`,
`IP:...`, `EMAIL:...`, `spiffe://trust.example/path`, where a `*` at the end stands for anything; `loopback`, and
`read-only` for whoever comes by that socket. Whoever fits several rules has all of their rights; whoever fits none has
none. Parsing raises `RolesError` and nothing else.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from hostdevd.core.caller import Caller, Proof
from hostdevd.core.matching import Values
from hostdevd.core.model import DEVICE_TYPES
from hostdevd.core.rights import Grant, Rights, Role, VmSelector, capped
from hostdevd.core.selectors import MATCHERS, Matchers, read_matchers, read_text, shown, texts

NAME_CHARACTERS = 100
COMMENT_CHARACTERS = 500
PATTERN_CHARACTERS = 256
MOST_RULES = 500

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
"""What looks like one is one, as in the API."""
_KEYS = ("name", "comment", "role", "identities", "vms", "devices")


class RolesError(Exception):
    """A roles file that makes no sense, in one line that names the rule and the key."""


@dataclass(frozen=True, slots=True)
class Names:
    """The host's users and groups by name; KeyError for one that it does not have."""

    uid: Callable[[str], int]
    gid: Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Identities:
    """Who a rule is about."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    sans: Values = field(default_factory=lambda: Values(frozenset()))
    loopback: bool = False
    read_only: bool = False

    def fit(self, caller: Caller) -> bool:
        """Whether a caller is one of them, by what his connection proves."""
        if self.read_only and caller.read_only and caller.proof is not Proof.NONE:
            return True
        if caller.proof is Proof.LOOPBACK:
            return self.loopback
        if caller.proof is Proof.PEER:
            return caller.uid in self.uids or not self.gids.isdisjoint(caller.gids)
        return caller.proof is Proof.CERTIFICATE and any(self.sans.fit(_normal(san)) for san in caller.sans)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the file."""

    name: str
    identities: Identities
    grant: Grant
    comment: str = ""


NO_RULE = "the roles file has no rule: nobody may do anything"
"""What to warn of: it is a file as good as any, and mostly an unfinished one."""


@dataclass(frozen=True, slots=True)
class Roles:
    """All rules."""

    rules: tuple[Rule, ...] = ()

    def rights(self, caller: Caller) -> Rights:
        """All that a caller may; nothing where no rule is about him, and only looking by a read-only socket."""
        found = Rights(tuple(rule.grant for rule in self.rules if rule.identities.fit(caller)))
        return capped(found, Role.VIEWER) if caller.read_only else found


def parse_roles(document: Mapping[str, object], names: Names) -> Roles:
    """The roles of a TOML document; `RolesError` for what is misspelt, missing, unknown or of the wrong kind."""
    for key in document:
        if key != "rule":
            raise RolesError(f"unknown key {key!r}; the file has [[rule]]")
    roles = Roles(tuple(_rules(document.get("rule", []), names)))
    if len(roles.rules) > MOST_RULES:
        raise RolesError(f"has more than {MOST_RULES} rules; put several identities into one rule")
    known = set[str]()
    for rule in roles.rules:
        if rule.name in known:
            raise RolesError(f'rule "{rule.name}": name: another rule has it')
        known.add(rule.name)
    return roles


def _rules(given: object, names: Names) -> Iterator[Rule]:
    if not isinstance(given, list):
        raise RolesError("rule: must be a list of tables, each begun with [[rule]]")
    for number, table in enumerate(given, 1):
        where = f"rule {number}"
        if not isinstance(table, dict):
            raise RolesError(f"{where}: must be a table, begun with [[rule]]")
        try:
            name = _text("name", table, NAME_CHARACTERS)
            if not name:
                raise ValueError("name: is missing; every rule needs one")  # noqa: TRY301  told as the others are
            where = f'rule "{name}"'
            yield _rule(name, table, names)
        except ValueError as error:
            raise RolesError(f"{where}: {error}") from None


def _rule(name: str, table: Mapping[str, object], names: Names) -> Rule:
    for key in table:
        if key not in _KEYS:
            raise ValueError(f"unknown key {key!r}; known are {', '.join(_KEYS)}")
    role = next((role for role in Role if role == table.get("role")), None)
    if role is None:
        raise ValueError(f"role: must be one of {', '.join(Role)}")
    if "identities" not in table:
        raise ValueError("identities: is missing; a rule is about somebody")
    grant = Grant(
        role,
        _vms(texts("vms", table["vms"])) if "vms" in table else None,
        tuple(_devices(table["devices"])) if "devices" in table else None,
    )
    who = _identities(texts("identities", table["identities"]), names)
    return Rule(name, who, grant, _text("comment", table, COMMENT_CHARACTERS))


def _text(key: str, table: Mapping[str, object], most: int) -> str:
    try:
        return read_text(table.get(key, ""), most)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


# --- who --------------------------------------------------------------------------------------------------


def _identities(given: tuple[str, ...], names: Names) -> Identities:
    uids, gids, sans = set[int](), set[int](), list[str]()
    for text in given:
        kind, _, value = text.partition(":")
        try:
            if text in {"loopback", "read-only"}:
                continue
            if kind in {"uid", "gid"}:
                (uids if kind == "uid" else gids).add(_number(value))
            elif kind == "user":
                uids.add(names.uid(value))
            elif kind == "group":
                gids.add(names.gid(value))
            else:
                sans.append(_san(text))
        except ValueError as error:
            raise ValueError(f"identities: {shown(text)} {error}") from None
        except KeyError:
            raise ValueError(f"identities: {shown(text)} is not known on this host") from None
    return Identities(frozenset(uids), frozenset(gids), Values.of(sans), "loopback" in given, "read-only" in given)


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise ValueError("must be a number; user: and group: take names")
    return int(text)


_SANS = ("DNS:", "URI:", "IP:", "EMAIL:")


def _san(text: str) -> str:
    san = f"URI:{text}" if text.startswith("spiffe://") else text
    prefix, value = next(((prefix, san.removeprefix(prefix)) for prefix in _SANS if san.startswith(prefix)), ("", ""))
    if not prefix:
        raise ValueError(
            "must be uid:..., user:..., gid:..., group:..., DNS:..., URI:..., IP:..., EMAIL:..., spiffe://...,"
            " loopback or read-only"
        )
    beginning = value.removesuffix("*")
    if not beginning or "*" in beginning or not beginning.isprintable() or beginning != beginning.strip():
        raise ValueError("must be a name, or the beginning of one and a * at its end")
    if value.endswith("*") and re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/]*", beginning, re.IGNORECASE):
        # `spiffe://example.org*` would let in `spiffe://example.org.evil.example`.
        raise ValueError("must name the whole of what stands before the path: the * comes after that")
    return _normal(san)


def _normal(san: str) -> str:
    """Host names are the same in capitals, and so is what stands before the path of a URI."""
    if san.startswith(("DNS:", "EMAIL:", "IP:")):
        kind, _, value = san.partition(":")
        return f"{kind}:{value.lower()}"
    match = re.match(r"(URI:)([^:/]+://[^/]*)(.*)", san, re.DOTALL)
    return f"{match[1]}{match[2].lower()}{match[3]}" if match is not None else san


# --- what -------------------------------------------------------------------------------------------------


def _vms(given: tuple[str, ...]) -> VmSelector:
    uuids, names, patterns = set[str](), set[str](), set[str]()
    for text in given:
        if not text or len(text) > PATTERN_CHARACTERS or not text.isprintable():
            raise ValueError(f"vms: {shown(text)} must be a name, a pattern of names or a UUID")
        if "*" in text or "?" in text:
            patterns.add(text)
        elif _UUID.fullmatch(text):
            uuids.add(text.lower())
        else:
            names.add(text)
    # One expression for all of them: it is asked for every holder in a list. Only * and ? are special.
    whole = "|".join(fnmatch.translate(text.replace("[", "[[]")) for text in sorted(patterns))
    fit = re.compile(whole).match if patterns else None
    return VmSelector(frozenset(uuids), frozenset(names), tuple(sorted(patterns)), fit)


def _devices(given: object) -> Iterator[Matchers]:
    if given == []:
        raise ValueError("devices: an empty list selects nothing; leave the key out")
    tables: list[object] = given if isinstance(given, list) else [given]
    for table in tables:
        if not isinstance(table, dict):
            raise ValueError("devices: must be tables, each begun with [[rule.devices]]")  # noqa: TRY004  as all else
        for key in table:
            if key not in MATCHERS:
                raise ValueError(f"devices: unknown key {key!r}; known are {', '.join(MATCHERS)}")
        try:
            yield read_matchers(table, DEVICE_TYPES)
        except ValueError as error:
            raise ValueError(f"devices: {error}") from None
