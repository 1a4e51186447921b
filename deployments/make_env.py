"""Write deployments/.env for docker-compose.yml: random secrets, readable by you only. Needs Python alone.

python deployments/make_env.py [FILE]: an existing file is kept, for the database in the volume knows its
secrets.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

TEXT = """\
# Made by deployments/make_env.py. Secrets of docker-compose.yml: keep this file to yourself.
NNCIFT_POSTGRES_PASSWORD={postgres}
NNCIFT_REDIS_PASSWORD={redis}
# Who opens the UI is asked for this (user:password); so is every client, as PREFECT_API_AUTH_STRING.
NNCIFT_API_AUTH=nncift:{api}
# Which worker starts: cpu, or gpu on a machine with the NVIDIA container toolkit.
COMPOSE_PROFILES=cpu
# Port of the UI and API on 127.0.0.1.
NNCIFT_PORT=4200
# A folder of yours with job files and data, which containers see as /jobs (read-only), and the job to deploy,
# as in /jobs/job.toml; empty: the built-in data.
NNCIFT_JOBS=./examples
NNCIFT_CONFIG=
# Who is told of failures, as in https://chat.example.org/hooks/...
# Empty: as it was (at first nobody); off: nobody any more.
NNCIFT_WEBHOOK=
"""


def main(path: Path) -> int:
    """Write the file unless it is there; returns the exit code."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{path} is there already and is kept")
        return 0
    # Hexadecimal: these stand in URLs.
    made = {name: secrets.token_hex(32) for name in ("postgres", "redis", "api")}
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(TEXT.format(**made))
    print(f"wrote {path} with new secrets (mode 600)")
    return 0


if __name__ == "__main__":
    default = Path(__file__).resolve().parent / ".env"
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
