"""What lies on disk: the pool, evidence, stage datasets and the manifest."""
