"""The stages of a valuation as plain functions over a workspace; `tasks/` wraps them for Prefect."""
