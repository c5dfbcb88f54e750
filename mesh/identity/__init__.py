"""Identities: the label text of a pod, the addresses that have one, selectors of labels."""
