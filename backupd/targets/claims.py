"""Creating an object only where it is absent, on stores that have no such operation.

Works on any target whose listings show at once what was put before they began, which Amazon has
promised since 2020 and every server with one index of its objects keeps. Where a listing may be
late it is not safe, and must not be used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

from backupd.errors import TargetError
from backupd.targets.base import Buffer, Target

_FOLDER = "claims"
_ROUNDS = 40
# The first waits for the rest to withdraw, which takes each several requests: on a busy store more
# than a second.
_LOOKS = 600
_LONGEST_SECONDS = 1.0
# On a store that is slow for so many writers the wait is as long as the requests of some rounds, or
# each would always meet others; up to this.
_SLOWEST_SECONDS = 20.0
# A writer that has not stored its object so long after its claim begins anew with another claim.
_OWN_SECONDS = 120.0
# That, and longer than one put may take until its last timeout: the claim's writer is gone.
_STALE_SECONDS = 600.0


def put_with_claim(
    target: Target,
    name: str,
    parts: Sequence[Buffer],
    *,
    store: Callable[[], bool],
    token: Callable[[], str],
    jitter: Callable[[], float],
    sleep: Callable[[float], object],
    clock: Callable[[], float],
) -> bool:
    """As `Target.put_if_absent`, by `put`, `list`, `stat`, `get` and `delete` alone.

    A writer puts an object of its own, its claim, and lists the claims for the name. Only when it
    sees none but its own does it look whether the name is free, and put. Of two writers the one
    whose claim came later sees both, so never are two past that point at once, and who comes
    after finds the object. Of those that see each other all but the first by name withdraw.
    The object is then read back: who finds another's there did not create it.
    A claim that outlived its writer is removed after ten minutes by the store's own clock; until
    then `TargetError` is raised, as trying again at once does not help.

    `store` puts `parts` under `name`, and may say that it was not free; `token` gives a fresh
    lower-case word each time, `clock` seconds.
    """
    # A digest, as a name may already be as long and deep as names may be.
    folder = f"{_FOLDER}/{blake2b(name.encode(), digest_size=16).hexdigest()}/"
    for round_ in range(_ROUNDS):
        if target.stat(name) is not None:
            return False
        claim = folder + token()
        begun = clock()
        target.put(claim, [claim.encode()])
        try:
            if _alone(target, folder, claim, jitter, sleep):
                if target.stat(name) is not None:
                    return False
                if clock() - begun < _OWN_SECONDS:
                    return store() and _is_stored(target, name, parts)
        finally:
            target.delete(claim)
        usual = min(_LONGEST_SECONDS, 0.02 * 2.0 ** min(round_, 10))
        sleep(jitter() * max(usual, min(_SLOWEST_SECONDS, 3 * (clock() - begun))))
    raise TargetError(
        f"target {target.name!r}: {name} is claimed by a writer that does not finish",
        hint="where that writer is gone its claim is given up ten minutes after it began",
    )


def _alone(
    target: Target,
    folder: str,
    claim: str,
    jitter: Callable[[], float],
    sleep: Callable[[float], object],
) -> bool:
    """Whether no claim but `claim` stands; waits for that while `claim` is the first of all."""
    for _ in range(_LOOKS):
        standing = list(target.list(folder))
        mine = next((info for info in standing if info.name == claim), None)
        if mine is None:
            return False  # taken for stale and removed: this writer was held up too long
        others = [info for info in standing if info.name != claim]
        for info in others:
            if mine.modified - info.modified > _STALE_SECONDS:
                target.delete(info.name)
        if not others:
            return True
        if min(info.name for info in others) < claim:
            return False
        sleep(0.01 + 0.04 * jitter())
    return False


def _is_stored(target: Target, name: str, parts: Sequence[Buffer]) -> bool:
    data = b"".join(parts)
    found = target.stat(name)
    if found is None or found.size_bytes != len(data):
        return False
    return target.get(name, len(data)) == data
