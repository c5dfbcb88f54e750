"""The conformance runner of egress translation: cases of the NAT RFCs, on the wire."""
