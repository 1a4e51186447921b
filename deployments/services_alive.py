"""Health of the container with Prefect's background services: exit code 0 while they give signs of life.

They write one to Redis every few seconds, under the name of the machine they run on.
"""

from __future__ import annotations

import os
import socket
import sys
import time

import redis

SECONDS = 60
# `prefect server services start` signs here; the API server, which does other work, under another name.
SIGNS = "prefect:workers"


def main() -> int:
    """0 when a worker of this machine signed within SECONDS, else 1."""
    client = redis.Redis.from_url(os.environ["PREFECT_SERVER_DOCKET_URL"], decode_responses=True)
    alive = client.zrangebyscore(SIGNS, time.time() - SECONDS, "+inf")
    return 0 if any(name.startswith(f"{socket.gethostname()}#") for name in alive) else 1


if __name__ == "__main__":
    sys.exit(main())
