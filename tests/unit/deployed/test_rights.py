"""polkit's rules, run as polkitd runs them: in a JavaScript engine, with `polkit.addRule`."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest
from lxml import etree

from hostdevd.virt.rights import RIGHTS

RULES = Path(__file__).parents[3] / "deploy/polkit/50-hostdevd.rules"
LIBVIRTS_ACTIONS = Path("/usr/share/polkit-1/actions")
NEEDED = {right for rights in RIGHTS.values() for right in rights}
CALLERS = Path(__file__).parents[3] / "server/hostdevd/virt"

# What polkit(8) gives to rules, as far as they may use it: nothing that starts a program.
POLKITD = """
const rules = [];
const polkit = {
  addRule: (rule) => rules.push(rule),
  Result: {NO: "no", YES: "yes", AUTH_ADMIN: "auth_admin", NOT_HANDLED: null},
};
new Function("polkit", require("fs").readFileSync(process.argv[1], "utf8"))(polkit);
const ask = ({action, user}) => {
  for (const rule of rules) {
    const result = rule({id: action, lookup: () => undefined}, {user, groups: [user], isInGroup: (g) => g === user});
    if (result) return result;
  }
  return null;
};
console.log(JSON.stringify(JSON.parse(process.argv[2]).map(ask)));
"""


def answers(actions: list[str], user: str = "hostdevd") -> dict[str, str | None]:
    """What the rules say to a user's actions; None where they say nothing."""
    asked = json.dumps([{"action": action, "user": user} for action in actions])
    done = subprocess.run(["node", "-e", POLKITD, "--", str(RULES), asked], capture_output=True, text=True, check=True)
    return dict(zip(actions, json.loads(done.stdout), strict=True))


@pytest.fixture(scope="module")
def known() -> list[str]:
    """All of libvirt's actions."""
    files = sorted(LIBVIRTS_ACTIONS.glob("org.libvirt.*.policy"))
    assert files, "libvirt-daemon-system is not installed"
    found = [action.get("id", "") for file in files for action in etree.parse(file).iter("action")]
    assert len(found) > 80
    return found


def test_the_service_may_do_what_it_needs_and_nothing_else_of_libvirts(known: list[str]) -> None:
    told = answers(known)
    assert {action for action, answer in told.items() if answer == "yes"} == NEEDED
    assert {action for action, answer in told.items() if answer != "yes"} == set(known) - NEEDED
    assert set(told.values()) == {"yes", "no"}


def test_nobody_else_is_concerned_and_no_other_program(known: list[str]) -> None:
    assert set(answers(known, user="somebody").values()) == {None}
    assert answers(["org.freedesktop.systemd1.manage-units"]) == {"org.freedesktop.systemd1.manage-units": None}


def test_every_function_that_is_called_has_its_rights_told() -> None:
    called = set()
    for file in CALLERS.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "call":
                function = node.args[0]
                called |= {function.attr} if isinstance(function, ast.Attribute) else set()
    asks_nobody = {"name", "UUIDString"}  # of the handle itself
    assert len(called) > 30
    assert called - asks_nobody == {name.rpartition(".")[2] for name in RIGHTS} - {"open"}
