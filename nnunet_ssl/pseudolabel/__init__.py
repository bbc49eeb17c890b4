"""From a trained teacher and a pool to the next stage's dataset: evidence, labels, ranking, stage, published model."""
