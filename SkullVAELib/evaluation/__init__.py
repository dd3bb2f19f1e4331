"""Metrics, and the scoring of folders of implants."""
