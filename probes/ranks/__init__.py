"""Training in several processes: rank 0 measures, the others hand over their shards."""
