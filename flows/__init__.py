"""Prefect flows (one file per job that a user schedules) and the `nncift` command."""
