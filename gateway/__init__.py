"""Egress: which pods leave through which address and gateway (egress), and the rows (desired)."""
