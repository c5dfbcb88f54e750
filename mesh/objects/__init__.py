"""Objects of a cluster: documents become rows, the same for every source of documents."""
