"""Maps of VRFs and SIDs in former versions: there were none."""

from __future__ import annotations

from bpf.migrate import Added, Declared, Scratch

#: Maps of pods, routes and paths. On the way back they must be empty, as programs of before would
#: send a tenant's packets into the mesh.
_ROWS = (
    "mg_vrf_pod",
    "mg_vrf_link",
    "mg_vrf_dest",
    "mg_vrf_host",
    "mg_vrf_prefix",
    "mg_vrf_via",
    "mg_vrf_bgp_host",
    "mg_vrf_bgp",
    "mg_vrf_bgp_via",
)
#: A node with a locator or with IPv6 neighbours has rows in these without any VRF.
_OF_ALL_NODES = ("mg_sid", "mg_sid_locator", "mg_srv6_domain")

DECLARED: Declared = (
    *(Added(name) for name in _ROWS),
    *(Added(name, rows_go=True) for name in _OF_ALL_NODES),
    Scratch("mg_srv6_path"),  # what routers have told is told again
)
