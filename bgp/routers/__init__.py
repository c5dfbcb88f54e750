"""The router side of a session, one module for each router software."""
