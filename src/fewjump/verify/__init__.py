"""The named checks of ``fewjump verify`` and the identities that it enumerates."""
