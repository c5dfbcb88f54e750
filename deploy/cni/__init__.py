"""The CNI plugin and how it is compiled."""
