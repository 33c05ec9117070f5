"""Samplers: walk a time grid from noise to data."""
