"""What routers have sent, and what they were sent (RFC 4271 3.2: Adj-RIBs-In, Adj-RIBs-Out).

``incoming`` and ``outgoing`` are the tables with their rules, without I/O; ``kept`` has them on the
disk; ``listener`` is the task that feeds them from ExaBGP in slices. ``why`` says why a prefix is
not announced or not accepted, ``shown`` makes the rows of the command line.
"""
