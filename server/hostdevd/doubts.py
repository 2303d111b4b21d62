"""What is right and yet hardly meant: options that leave nobody able to do anything, or everybody to do everything."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from hostdevd.config import Config
from hostdevd.core.roles import NO_RULE
from hostdevd.front.addresses import parse_address
from hostdevd.options.layers import Found
from hostdevd.roles_file import ROLES_FILE
from hostdevd.rules_file import read_rules


def doubts(found: Found) -> Iterator[str]:
    """A line each: where it stands, and what it means. Only for options without faults (`checking.faults`)."""
    config = Config(**found.values)
    if config.roles is not None:
        roles = read_rules(ROLES_FILE, config.roles)
        if roles is not None and not roles.rules:
            yield f"{found.places['roles']}: {config.roles}: {NO_RULE}"
        return
    addresses = [parse_address(text, with_tls=True) for text in config.listen]
    if config.socket_mode & stat.S_IWOTH and any(address.path is not None for address in addresses):
        where = found.places["socket_mode"]  # the default lets no others in
        yield f"{where}: {config.socket_mode:04o} lets everybody on this host in; without a roles file each is admin"
    for address in addresses:
        if address.path is None and not address.tls:
            where = found.places["listen"]
            yield f"{where}: {address.text}: everybody on this host reaches it; without a roles file each is admin"
