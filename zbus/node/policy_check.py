"""`PolicyCheck`: the only place where a bus asks its policy."""

from __future__ import annotations

from ..errors import Unavailable
from ..options import PolicyFunction, check_policy
from ..runtime.locks import native

__all__ = ["PolicyCheck"]


class PolicyCheck:
    """Asks the policy of one bus. It holds no lock, because a policy is user code and may log."""

    def __init__(self, policy: PolicyFunction | None) -> None:
        """Ask `policy`; `None` allows everything."""
        self._policy = policy
        self._asking: set[int] = set()

    def check(self, action: str, what: str, resource: str) -> None:
        """Raise if `action` on `resource` is denied; `what` describes the action in words.

        Raises:
            Invalid: it is denied.
            Unavailable: the policy itself uses the bus, from within this check.
        """
        if self._policy is None:
            return
        thread = native.get_ident()
        if thread in self._asking:
            raise Unavailable(
                f"the policy is being asked, and so cannot {what} {resource}: use another bus in it"
            )
        self._asking.add(thread)
        try:
            check_policy(self._policy, action, what, resource)
        finally:
            self._asking.discard(thread)
