"""What Meshgate sets on a host: one table, the former values, and what stands in the way.

settings (the table), forwarding (in which order), firewall (rules that stop our traffic) are pure;
ledger keeps the former values; agent, restore and document are who uses the table.
"""
