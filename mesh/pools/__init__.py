"""Pools that are cut into one prefix for each node: pod CIDRs and locators work alike."""
