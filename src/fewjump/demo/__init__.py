"""What ``fewjump demo`` runs: small problems, end to end, each with a report page."""
