"""What pods were led to by the last agent, as long as the store has not said what is so now. Pure.

Which addresses a pool's policy has, and which ones firewalls have acknowledged, stands in the
store alone. An agent that starts knows neither. Until it does, each pod goes on with the addresses
to which the class in its row has led: firewalls had those when the row was written, and no other
address is known that they have. Whether the policy still names them does not matter: its addresses
may have been exchanged while no agent was there.

A class is no list of policies that could be read back, its number is one of their words
(``plan.class_number``). So the words are looked for that make this number; then the pod's row and
those of the class stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice, product

from gateway.plan import class_number
from gateway.policy import EgressPolicy
from gateway.rows import AnyKey, EgressKey, EgressLabelKey, EgressRow
from gateway.spread import word_of
from mesh.core.model import IP

#: The addresses to which a class led by policy: of each family at most one.
Led = Mapping[str, tuple[IP, ...]]
#: Words of a class that are looked at. Each policy has at most four, so those of four policies.
CANDIDATES = 256


def is_unsure(policy: EgressPolicy, *, feeds: bool, addresses: bool) -> bool:
    """Whether the store has yet to say what the policy may use; the flags are what it has said."""
    if policy.activation != "Immediate" and not feeds:
        return True
    return bool(policy.pool) and not policy.addresses and not addresses


def led_by(
    number: int,
    names: tuple[str, ...],
    policies: Mapping[str, EgressPolicy],
    before: Mapping[AnyKey, EgressRow],
) -> dict[str, tuple[IP, ...]]:
    """What each policy had in the class ``number``; ``before`` are the rows of the last agent.

    Of two policies with one network the first one has its row (S18).
    """
    led: dict[str, tuple[IP, ...]] = {}
    for at, name in enumerate(names):
        if name not in policies:
            continue
        others = {n for one in names[:at] if one in policies for n in policies[one].destinations}
        networks = [n for n in policies[name].destinations if n not in others]
        rows = [before.get(EgressKey(number, network)) for network in networks]
        if policies[name].labelled:
            rows += [
                row
                for key, row in before.items()
                if isinstance(key, EgressLabelKey) and key.egress_class == number
            ]
        found: dict[int, IP] = {}
        for row in rows:
            if row and row.address:
                found.setdefault(row.address.version, row.address)
        led[name] = tuple(found[family] for family in sorted(found))
    return led


def words_before(number: int, words: Mapping[str, str], led: Led) -> tuple[str, ...]:
    """The words of a pod whose class was ``number``; ``words`` has those of now by policy.

    ``led`` has the policies that the store has yet to say something of; the others keep their word.
    Where no words make the number, which is then one of other policies, they lead to the same.
    """
    options = [_words(name, led[name]) if name in led else [words[name]] for name in words]
    for found in islice(product(*options), CANDIDATES):
        if class_number(found) == number:
            return found
    return tuple(some[-1] for some in options)


def _words(name: str, led: tuple[IP, ...]) -> list[str]:
    """Words of a policy that may have led there: without an address it is the policy's first."""
    some = [(), *((one,) for one in led), led]
    return list(dict.fromkeys(word_of(name, leads) for leads in some))


def as_before(policies: Mapping[str, EgressPolicy], led: Led) -> dict[str, EgressPolicy]:
    """Policies with the addresses to which they led; those of ``led`` alone are changed."""
    return {
        name: replace(policy, addresses=led[name]) if led.get(name) else policy
        for name, policy in policies.items()
    }
