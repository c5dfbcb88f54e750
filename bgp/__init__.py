"""Routes out. Read in this order: desired (which sessions and routes), session (as targets).

Below session: memory (what was last applied), config and lines (what ExaBGP is told and says),
channel (the conversation), engine (ExaBGP and relay as processes), reasons (why a session is down).
Programs of their own: launcher, exa (ExaBGP with our changes), relay. The router's side: frr.
"""
