"""Which labelled rows to keep: sampling by score, studies of pruning, label noise and imbalance, suspects."""
