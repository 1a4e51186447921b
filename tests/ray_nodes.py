"""A Ray cluster for tests: two nodes on this machine, each with a GPU that exists in Ray's books alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import free_port


def two_nodes() -> Iterator[Any]:
    """The cluster, for as long as a fixture lives; each node has one CPU.

    `address` is for this machine; `client_address` is how any other reaches it.
    """
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'nncift[ray]')")
    from ray.cluster_utils import Cluster

    client_port = free_port()
    node = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 << 20}
    head = {**node, "include_dashboard": False, "ray_client_server_port": client_port}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(**node)
    made.client_address = f"ray://127.0.0.1:{client_port}"
    yield made
    made.shutdown()
