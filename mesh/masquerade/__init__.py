"""Masquerade: what pods send to the world carries the address of their node.

settings (the section of the configuration) -> rows (pure) -> maps -> findings -> agent.
"""
