"""Complete shapes of a skull: the two-table representation, and the same warped to a patient."""
