"""The interactive session: further shapes and implants of one patient, on request."""
