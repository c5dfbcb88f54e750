"""IPFIX: which node holds which port block of an egress address, told to a collector."""
