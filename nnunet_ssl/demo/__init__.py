"""The demonstration: a synthetic dataset, small enough for a CPU, on which the whole method runs."""
