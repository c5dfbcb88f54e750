"""What BGP teaches a node: rules of import -> best paths -> kernel table, labels, counts (D129)."""
