"""Codes of findings about the export of events."""

from mesh.core.findings import Code

COLLECTOR_AWAY = Code(
    "E380",
    "The IPFIX collector does not take events about port blocks. Nothing else waits for it. When "
    "it is back it is told which blocks are held then.",
    "Look at the collector, and at section ipfix of the controller's configuration.",
)
