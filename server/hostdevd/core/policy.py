"""The operator's policy: which devices may be assigned all the same, and which never (rules.md, "Policy file").

The file is TOML, two lists of rules:

    [[allow]]
    name = "bmc-lab"                  # of every rule, unique in the file
    comment = "spare boards, #1234"   # optional, shown to who is refused
    class = "07"                      # a matcher: one value or a list of them

    [[deny]]
    name = "management"
    id = ["8086:1533", "8086:1521"]   # values of one matcher are alternatives,
    address = "0000:05:*"             # matchers of one rule must all fit

Matchers are `type`, `class`, `id`, `address` (notation: `core/matching.py`), `uid` and `driver` (both exact).
A device that fits any deny rule is denied, whatever allows it. Parsing raises `PolicyError` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hostdevd.core.model import ASSIGNABLE
from hostdevd.core.selectors import MATCHERS, Matchers, Traits, fits, read_matchers, read_text

NAME_CHARACTERS = 100
COMMENT_CHARACTERS = 500
"""Bounds of what is repeated in every reason."""
MOST_RULES = 500
"""Every device is compared with every rule; the values of one rule cost nothing, so long lists belong there."""


class PolicyError(Exception):
    """A policy that makes no sense, in one line that names the rule and the key."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `matchers` is the values by key."""

    name: str
    matchers: Matchers
    comment: str = ""

    def fits(self, device: Traits) -> bool:
        """Values of one matcher are ORed, matchers ANDed."""
        return fits(self.matchers, device)


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules, in the order of the file, which means nothing but the order of what is told."""

    allow: tuple[Rule, ...] = ()
    deny: tuple[Rule, ...] = ()

    def allows(self, device: Traits) -> bool:
        """Whether an allow rule accepts what such a rule may accept."""
        return any(rule.fits(device) for rule in self.allow)

    def denying(self, device: Traits) -> Iterator[Rule]:
        """Every deny rule that fits."""
        return (rule for rule in self.deny if rule.fits(device))


NO_POLICY = Policy()
"""Without a policy file: nothing is accepted, nothing denied."""


_KEYS = ("name", "comment", *MATCHERS)


def parse_policy(document: Mapping[str, object]) -> Policy:
    """The policy of a TOML document; `PolicyError` for what is misspelt, missing, or of the wrong kind."""
    for key in document:
        if key not in {"allow", "deny"}:
            raise PolicyError(f"unknown key {key!r}; the file has [[allow]] and [[deny]]")
    policy = Policy(*(tuple(_rules(kind, document.get(kind, []))) for kind in ("allow", "deny")))
    if len(policy.allow) + len(policy.deny) > MOST_RULES:
        raise PolicyError(f"has more than {MOST_RULES} rules; put several values into one rule")
    names = set[str]()
    for kind, rule in (*(("allow", rule) for rule in policy.allow), *(("deny", rule) for rule in policy.deny)):
        if rule.name in names:
            raise PolicyError(f"{_called(kind, rule.name)}: name: another rule has it")
        names.add(rule.name)
    return policy


def _rules(kind: str, given: object) -> Iterator[Rule]:
    if not isinstance(given, list):
        raise PolicyError(f"{kind}: must be a list of tables, each begun with [[{kind}]]")
    for number, table in enumerate(given, 1):
        if not isinstance(table, dict):
            raise PolicyError(f"{kind} rule {number}: must be a table, begun with [[{kind}]]")
        yield _rule(kind, number, table)


def _rule(kind: str, number: int, table: Mapping[str, object]) -> Rule:
    where = f"{kind} rule {number}"
    name = _text(f"{where}: name", table.get("name", ""), NAME_CHARACTERS)
    if not name:
        raise PolicyError(f"{where}: name: is missing; every rule needs one")
    where = _called(kind, name)
    for key in table:
        if key not in _KEYS:
            raise PolicyError(f"{where}: unknown key {key!r}; known are {', '.join(_KEYS)}")
    try:
        matchers = read_matchers(table, ASSIGNABLE)
    except ValueError as error:
        raise PolicyError(f"{where}: {error}") from None
    return Rule(name, matchers, _text(f"{where}: comment", table.get("comment", ""), COMMENT_CHARACTERS))


def _called(kind: str, name: str) -> str:
    return f'{kind} rule "{name}"'


def _text(where: str, given: object, most: int) -> str:
    try:
        return read_text(given, most)
    except ValueError as error:
        raise PolicyError(f"{where}: {error}") from None
