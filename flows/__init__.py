"""Prefect flows (one file per job that a user schedules) and the `nncift` command."""

import os

# Threads that spin while they wait for each other come to a stand on a machine that does anything beside
# (a Prefect server is enough): measured on two cores, 2 rows a second instead of 30. It has to be said
# before torch starts its threads; whoever sets it himself is heeded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
