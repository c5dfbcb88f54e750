"""SRv6: locators of nodes, and SIDs as functions of a locator; ``vrf/`` stands upon both."""
