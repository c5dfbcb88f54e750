"""Health of a node's datapath: drops and tables that fill up, as lines of status and as findings.

history (counters → packets of the last minute), rules (→ findings), shares (how full → findings)
are pure; counts reads tables; agent is where they meet.
"""
