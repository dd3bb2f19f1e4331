"""The interactive session after a run: further shapes and implants of one patient, on request."""
