"""The accuracy benchmark's rooms; the command is Testing/accuracy.py."""
