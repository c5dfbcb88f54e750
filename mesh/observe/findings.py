"""Codes of findings about processes and what they serve; they end in 90 to 99."""

from mesh.core.findings import Code

CONTROLLER_AWAY = Code(
    "M190",
    "A controller does not answer. If no other one leads, its cluster stays as published until "
    "the lease ends; claims and imports wait.",
    "Start the controller; its log says why it ended.",
)
NO_CONTROLLER = Code(
    "M191",
    "A cluster on this machine has no controller. Claims and imports wait.",
    "Start a controller for the cluster.",
)
PROCESS_AWAY = Code(
    "M192",
    "A process that is no agent, controller or speaker does not answer, a feed for firewalls, say.",
    "Start it, or remove its socket.",
)
CONTROLLER_STARTING = Code(
    "M193",
    "A controller has not synced or written everything yet.",
    "Wait a few seconds; its other findings say what it waits for.",
)
PROCESS_STARTING = Code(
    "M194",
    "A process that is no agent, controller or speaker has not synced everything yet.",
    "Wait a few seconds; its other findings say what it waits for.",
)
NO_PROCESS = Code(
    "M199",
    "No process of Meshgate runs on this machine.",
    "Start the processes, or set MESHGATE_RUN to their run directory.",
)
SPEAKER_AWAY = Code(
    "B290",
    "A speaker does not answer. ExaBGP keeps its sessions and routes; changes of routes wait.",
    "Start the speaker; its log says why it ended.",
)
SPEAKER_STARTING = Code(
    "B293",
    "A speaker has not said everything to its routers yet.",
    "Wait a few seconds; its other findings say what it waits for.",
)
AGENT_AWAY = Code(
    "D690",
    "An agent does not answer. What is programmed goes on forwarding; new pods, services and "
    "addresses wait.",
    "Start the agent; its log says why it ended.",
)
NO_AGENT = Code(
    "D691",
    "A node of a cluster on this machine has no agent.",
    "Start an agent for the node, or remove its Node object.",
)
TABLE_BROKEN = Code(
    "D692",
    "A process does not list one of its tables to the end.",
    "Ask again. If this stays, read the log of the process.",
)
AGENT_STARTING = Code(
    "D693",
    "An agent has not synced everything yet.",
    "Wait a few seconds; its other findings say what it waits for.",
)
LISTENER_DOWN = Code(
    "D694",
    "An agent cannot listen for Hubble relays. Its flows are on its unix socket only.",
    "Free the port, or correct section hubble of the agent's configuration; it is tried again "
    "every 5 seconds.",
)
