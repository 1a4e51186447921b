"""The task of an audit: the loss of every query under one trained model, in shards."""

from __future__ import annotations

from tasks.shards import on_device

query_losses = on_device("query-losses")
