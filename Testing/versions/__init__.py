"""The parts of compare_versions.py: what is recorded of a version, and how two recordings are compared."""
