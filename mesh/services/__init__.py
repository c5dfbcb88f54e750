"""Services: backends of all clusters, and the slots of ``mg_backend_addr`` where they stand."""
