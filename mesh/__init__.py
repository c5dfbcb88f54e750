"""The spine and the processes: core, then config, manifests, kernel, features, agent, CLI."""
