"""The name installation.py had; widget.py and selftest.py still ask for it."""

from .installation import ensurePackages, missingPackages

__all__ = ["ensurePackages", "missingPackages"]
