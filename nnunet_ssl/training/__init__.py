"""Trainers for nnU-Net, and what they are made of."""
