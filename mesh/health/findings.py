"""Codes of findings about the health of a node's datapath."""

from mesh.core.findings import Code

DROPPING = Code(
    "D630",
    "A node has dropped packets of one reason and origin during the last minute, more than usual "
    "operation explains. The text names their origin and the consequence. The finding "
    "ends when the minute has less than half of the number at which it begins.",
    "Follow the text. `meshgate flow list --verdict DROPPED` shows the packets, "
    "`meshgate drop list` the counters.",
)
NEARLY_FULL = Code(
    "D631",
    "A table, or the ports of an egress address, are used up to three quarters and more. The text "
    "names the connections that are refused when the rest is used, too. The finding ends when less "
    "than two thirds "
    "were in use for a minute.",
    "Make it larger as the text says, or look which pod has the connections "
    "(`meshgate flow list`).",
)
MISTAKE = Code(
    "M173",
    "A part of a process has met a mistake in Meshgate. A derivation leaves its rows as they are: "
    "nothing is deleted, and derivations that read these rows wait. It is tried again when its "
    "inputs change. A task begins anew after a pause. All other parts go on.",
    "Report the text to Meshgate's developers; the log of the process has the details. A row that "
    "the text names can be changed, so that the derivation goes on.",
)
HALF_FULL = Code(
    "D657",
    "A connection table is half full. Nothing is refused yet; entries that have ended, or whose "
    "opener does not answer, go after seconds. The text says how many are half-open: many of them "
    "come from a sender that opens connections and never answers, with forged addresses or in a "
    "pod. "
    "The finding ends when less than two fifths were in use for a minute, "
    "and gives way to D631 from three quarters on.",
    "With many half-open ones look from where they come (`meshgate flow list`); else make the "
    "table larger as the text says.",
)
