"""Prefect tasks: thin wrappers over `nncift_core.pipeline` (cache key, retry, progress, artifact)."""
