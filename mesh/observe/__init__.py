"""The view of a process that people and tools get, read-only.

``events`` keeps the events of the datapath and decodes them to flows, ``hubble`` serves the flows
(``filters``), ``drops`` counts. ``tables`` is the process socket, both its ends. Above it stand the
command line's parts: ``listing`` (rows of several processes as one list), ``nouns``, ``watch``
(flows of several agents), ``status`` (health), ``render`` (text, JSON, YAML).
"""
