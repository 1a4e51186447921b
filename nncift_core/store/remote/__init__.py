"""A workspace in an object store: objects, the journal that indexes them, a local mirror, leases."""
