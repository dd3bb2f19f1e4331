"""Version of SkullVAE, and the notice that every output carries."""

__version__ = "0.2.0"

NOTICE = "Research software, not a medical device, not for clinical use."
