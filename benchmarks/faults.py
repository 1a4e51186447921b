"""Many faults, one after another, at seeded random moments of small real runs; exits 1 on any loss.

The faults are those of tests/faults at the level of store and shards, without a server: workers and drivers
killed, stopped, out of disk, files damaged. After each, the run goes on and its values are compared bit by
bit.

Run: python benchmarks/faults.py --count 1000 [--seed N] [--only NUMBER] [--kind KIND] [--minutes M]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from machine import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def main() -> None:
    # After the path: these lie with the tests.
    from faults.harness import SEED, Lost, faults
    from faults.kinds import may_mount
    from faults.world import World

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--only", type=int, help="this fault alone, again")
    parser.add_argument("--kind", help="of these faults only those of one kind")
    parser.add_argument("--minutes", type=float, help="stop after that many")
    args = parser.parse_args()
    wanted = faults(args.seed, max(args.count, (args.only or 0) + 1))
    if args.only is not None:
        wanted = [wanted[args.only]]
    if args.kind:
        wanted = [f for f in wanted if f.kind == args.kind]
    injected, lost, seconds = defaultdict(int), defaultdict(int), defaultdict(float)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if not may_mount(Path(folder) / "disk"):
            print("this user may not mount a small disk: no disk fills up", file=sys.stderr)
            wanted = [f for f in wanted if f.kind != "disk full"]
        world = World(Path(folder) / "world")
        try:
            for fault in wanted:
                start = time.monotonic()
                if args.minutes and start - begun > 60 * args.minutes:
                    break
                try:
                    fault.inject(world)
                except Lost as e:
                    lost[fault.kind] += 1
                    print(e, file=sys.stderr)
                injected[fault.kind] += 1
                taken = time.monotonic() - start
                seconds[fault.kind] += taken
                print(f"{fault}: {taken:.1f} s", file=sys.stderr, flush=True)
        finally:
            world.close()
    print(machine())
    print(f"seed {args.seed}\n{'kind':34} {'injected':>8} {'recovered':>9} {'seconds':>8} {'each':>6}")
    for kind, n in sorted(injected.items()):
        print(f"{kind:34} {n:8} {n - lost[kind]:9} {seconds[kind]:8.1f} {seconds[kind] / n:6.1f}")
    n, bad = sum(injected.values()), sum(lost.values())
    print(
        f"{'all':34} {n:8} {n - bad:9} {sum(seconds.values()):8.1f} {sum(seconds.values()) / max(1, n):6.1f}"
    )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
