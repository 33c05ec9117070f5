"""``fewjump verify``: the identities by enumeration, and the named checks."""
