"""SRv6 locators; SIDs and VRFs join them when the VRF noun arrives."""
