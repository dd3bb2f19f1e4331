"""The printable implant: options, implicit solid, perforation, splitting and measures."""
