"""Routes out: desired (which routes), session (the set-valued target), exa, relay, launcher."""
