"""Codes of findings about CNI."""

from mesh.core.findings import Code

ATTACHMENTS = Code(
    "M215",
    "The file of attachments cannot be read or written. Pods that are connected stay as they are; "
    "new pods wait (ADD fails with code 11, and the kubelet tries again).",
    "Make room on the disk, or mend the file that the text names. If its content is lost, move "
    "all pods away from the node and remove it.",
)
SOCKET = Code(
    "M216",
    "The socket for the CNI plugin cannot be served. New pods wait.",
    "Correct cni.socket in the agent's configuration, or mend what the text says.",
)
NO_LIST = Code(
    "M217",
    "The CNI list cannot be written, so the runtime does not know the network. New pods of a node "
    "without another list wait.",
    "Correct cni.confDir and cni.binDir in the agent's configuration, install the plugin "
    "(`meshgate cni install`), or mend what the text says.",
)
PLUGIN = Code(
    "M218",
    "A plugin that is chained after ours cannot be used. hostPort of pods does not work.",
    "Mend or remove the plugin that the text names.",
)
OTHER_LIST = Code(
    "M219",
    "The CNI list of the other network has gone or cannot be read, so our list beside it has gone, "
    "too. New pods are not ours.",
    "Install the other CNI again, or let it keep its list (Cilium: cni.exclusive=false).",
)
