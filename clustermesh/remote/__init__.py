"""Other clusters: the wire format, the import firewall, accepted rows as tables."""
