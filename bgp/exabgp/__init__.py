"""The door to ExaBGP: engine, relay, channel, session."""
