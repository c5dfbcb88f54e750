"""Codes of findings about feeds."""

from mesh.core.findings import Code

NOT_ACKNOWLEDGED = Code(
    "M234",
    "An egress address is not acknowledged by every firewall of its groups "
    "(FirewallAcknowledged=False). Policies with `activation: Acknowledged` use their other "
    "addresses; where there is none, new connections are refused (NOT_ACKNOWLEDGED).",
    "Let the firewalls fetch their feed (`meshgate feed list`), register one for the group, or "
    "`meshgate egress activate ADDRESS --without FIREWALL`.",
)
OVERRIDDEN = Code(
    "M235",
    "An egress address carries traffic although a firewall has not acknowledged it, as an operator "
    "has asked. That firewall may refuse the connections.",
    "Let the firewall fetch its feed.",
)
RESTING = Code(
    "M236",
    "Egress addresses that no policy wants any more stay claimed: their group was deleted, or a "
    "firewall has not fetched the list without them.",
    "Take the feed out of the firewalls, then `meshgate egress release GROUP`; or let them fetch.",
)
REFUSED = Code(
    "M237",
    "Somebody asks for a feed with credentials that are none of a registered firewall, or a "
    "firewall asks for a group for which it is not registered. It gets no list.",
    "Correct the credentials in the firewall, or section firewalls of the feed's configuration.",
)
UNUSABLE = Code(
    "M238",
    "The feed cannot use a part of its configuration: a certificate, a file with a secret, the "
    "address to listen on, or a group that is not there. Firewalls keep the lists that they have.",
    "Correct the part that the finding names; the feed looks again every 2 seconds.",
)
NEAR_LIMIT = Code(
    "M239",
    "A feed's list is longer than 80 % of what a vendor's firewalls take. They leave the surplus "
    "out.",
    "Divide the group, or let those firewalls fetch another form.",
)
