"""Flows, drops and tables served read-only: flows (decode), hubble (Observer), tables (socket)."""
