"""What drives the shards of a job to their end without a server: the pool, the plan, the tasks' own code.

As a program (`python -m faults.driver JOB.json ORDER`) it says "ready", waits for a line, and tells at the
end what it computed. ORDER: a number to shuffle the shards by; 0 keeps them as planned.
"""

from __future__ import annotations

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from nncift_core.execution.failures import is_permanent
from nncift_core.execution.job import Job
from nncift_core.execution.pool import close_pools, pool_of
from nncift_core.pipeline.exact import ExactShard, plan_exact
from nncift_core.store.runs import attempt
from tasks.shards import exact_influence, shard_key

RUN = "faults"


def drive(job: Job, order: int = 0) -> dict[str, int]:
    """Compute what planning finds missing, each shard with the config's retries; pairs computed by shard.

    Raises what a shard raised in its last try, after all others have been tried.
    """
    with attempt(job.ws, RUN, {}, {}):
        problem = job.problem()
        problem.look_again()
        wanted = [s for s in plan_exact(problem).shards if s.missing]
        if order:
            random.Random(order).shuffle(wanted)
        with ThreadPoolExecutor(len(pool_of(job.config).slots)) as threads:
            futures = {s.name: threads.submit(_tried, job, s) for s in wanted}
        return {name: future.result() for name, future in futures.items()}


def _tried(job: Job, shard: ExactShard) -> int:
    """One shard, as Prefect has it tried."""
    given = asdict(shard)
    key = shard_key(exact_influence.name, job, given, {})
    for left in range(job.config.execution.retries, -1, -1):
        try:
            return int(exact_influence.fn(key, job, [given], {})["computed"])
        except Exception as e:
            if is_permanent(e) or not left:
                raise
            time.sleep(job.config.execution.retry_seconds)
    raise AssertionError("unreachable")


def main(job_file: str, order: str) -> None:
    """Say that the imports are done, wait for the word to go, drive."""
    job = Job.model_validate_json(Path(job_file).read_text(encoding="utf-8"))
    print("ready", flush=True)
    sys.stdin.readline()
    done = drive(job, int(order))
    close_pools()
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
