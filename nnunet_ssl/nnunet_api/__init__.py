"""The one place that calls nnU-Net: set-ups, preprocessing, sliding windows and geometry, each nnU-Net function by its name."""
