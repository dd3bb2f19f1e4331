"""Errors, exit codes, progress, console output, threads, file output, hashes and JSON; no images, no networks."""
