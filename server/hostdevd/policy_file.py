"""The policy file: what it is, and where its rules go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from hostdevd.core.behind import catch_up
from hostdevd.core.policy import NO_POLICY, Policy, PolicyError, parse_policy
from hostdevd.core.store import Store
from hostdevd.rules_file import Kind

POLICY_FILE = Kind(
    name="policy",
    parse=parse_policy,
    error=PolicyError,
    default=NO_POLICY,
    counts=lambda policy: {"allow": len(policy.allow), "deny": len(policy.deny)},
)


def into(store: Store) -> Callable[[Policy], Awaitable[None]]:
    """What has every device judged by a policy that was read again."""

    async def apply(policy: Policy) -> None:
        store.put_policy(policy)
        await catch_up(store)

    return apply
