"""Where the programs are attached: devices, directions, socket calls, and the names of links."""

from __future__ import annotations

from bpf.sys import AttachType

UPLINK_PROGRAM = "mg_from_uplink"
VXLAN_PROGRAM = "mg_from_vxlan"
HOST_PROGRAM = "mg_to_vxlan"
#: Drops what others send to the overlay port; what its own generation sends passes.
GUARD_PROGRAM, GUARD = "mg_to_uplink", "guard"
#: In the uplink's driver, before ``UPLINK_PROGRAM``: SRv6.
XDP_PROGRAM, XDP = "mg_xdp_uplink", "xdp"
VXLAN_DEVICE = "mg_vxlan"
#: UDP port of the overlay of whoever says nothing else, as in ``enum overlay_number``.
VXLAN_PORT = 8472
#: Programs on the host end of a pod's veth: link suffix, program, ingress.
POD_PROGRAMS = (("in", "mg_from_pod", True), ("out", "mg_to_pod", False))
SOCKET_PROGRAMS = {
    "mg_connect4": AttachType.CONNECT4,
    "mg_connect6": AttachType.CONNECT6,
    "mg_sendmsg4": AttachType.SENDMSG4,
    "mg_sendmsg6": AttachType.SENDMSG6,
    "mg_recvmsg4": AttachType.RECVMSG4,
    "mg_recvmsg6": AttachType.RECVMSG6,
    "mg_getpeername4": AttachType.GETPEERNAME4,
    "mg_getpeername6": AttachType.GETPEERNAME6,
}
#: Programs that hand over, by the point at which they see packets (``enum event_point``).
HANDOVER_PROGRAMS = {
    "POINT_FROM_POD": "mg_from_pod",
    "POINT_TO_POD": "mg_to_pod",
    "POINT_FROM_UPLINK": UPLINK_PROGRAM,
    "POINT_FROM_OVERLAY": VXLAN_PROGRAM,
    "POINT_FROM_HOST": HOST_PROGRAM,
    "POINT_TO_UPLINK": GUARD_PROGRAM,
}


def program_of(link: str) -> str | None:
    """The program that a pinned link runs, by the link's name; None: no link of ours."""
    if link in SOCKET_PROGRAMS:
        return link
    by_name = {
        "uplink": UPLINK_PROGRAM,
        "vxlan": VXLAN_PROGRAM,
        "host": HOST_PROGRAM,
        GUARD: GUARD_PROGRAM,
        XDP: XDP_PROGRAM,
    }
    by_suffix = {suffix: program for suffix, program, _ in POD_PROGRAMS}
    return by_name.get(link) or by_suffix.get(link.rpartition("_")[2])
