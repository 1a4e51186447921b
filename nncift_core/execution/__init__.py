"""Running a job's shards: models per device slot, worker processes, one device each."""
