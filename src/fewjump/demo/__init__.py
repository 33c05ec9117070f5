"""What ``fewjump demo`` runs: the whole method on a small problem, ending in a report."""
