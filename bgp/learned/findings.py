"""Codes of findings about learned routes."""

from mesh.core.findings import Code

NOT_WRITTEN = Code(
    "B240",
    "The kernel refuses learned routes, or the rules that lead pods' packets to them. Packets take "
    "the routes of the host's own tables.",
    "Act on the reason that the text names; the speaker needs CAP_NET_ADMIN, and tries again.",
)
UNREACHED = Code(
    "B241",
    "Routes of a peer are accepted and not used: their next hop is not on a link of the node.",
    "Let the peer announce itself as next hop, or give the node an address on that network.",
)
PROTECTED = Code(
    "B242",
    "A peer sends prefixes that an import rule accepts and that are never taken: ours, or a "
    "default route that no rule names as 0.0.0.0/0 or ::/0.",
    "Filter them at the router, or make the rules of spec.import narrower.",
)
TOO_MANY_LABELS = Code(
    "B243",
    "Learned networks of a node have too many different sets of labels. Those beyond the limit "
    "have no identity: no policy selects them, and flows show them as world.",
    "Make spec.import turn fewer communities into labels.",
)
NO_IDENTITIES = Code(
    "B244",
    "The identities of learned networks cannot be written for the datapath. Policies that select "
    "them by label do not cover what is new.",
    "Start the agent of the node; give the speaker `bpffs` in its configuration, and CAP_BPF.",
)
NOT_TOLD = Code(
    "B245",
    "The speaker cannot write its label sets into etcd, so they get no identities.",
    "Issue the speaker's user anew (`meshgate cluster node NAME --issue`); it has to write below "
    "learned/.",
)
UNDECLARED = Code(
    "B246",
    "A node's speaker says labels that no BGPPeer's import rule makes. They get no identity.",
    "Look at the node: its certificate may be in wrong hands. Labels of an old rule go by "
    "themselves.",
)
