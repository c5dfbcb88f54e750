"""Cilium's BGP objects, read as they are: they become BGPPeers like our own.

kinds     the four kinds: documents -> rows
rows      what one object says
derived   rows of the four kinds -> BGPPeers, and what is not served. Pure
peers     BGPPeers of both sorts as one table
findings  codes
"""
