"""Predict new cases: labels as nnU-Net's, and how far they can be trusted."""
