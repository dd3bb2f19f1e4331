"""Cohorts: many skulls on a pool of workers, a process for each case, and the table of results."""
