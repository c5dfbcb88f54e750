"""The spine and the processes: core, then config, manifests, kernel, features, agent, CLI."""

import os

# Before anybody imports numpy: its library for matrices, which nothing of ours uses, would start a
# thread for each CPU, and each looks busily for work at first: 0.03 s of CPU for every command.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
