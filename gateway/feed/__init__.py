"""Feeds: lists of egress addresses that firewalls fetch, and which firewall has fetched which."""
