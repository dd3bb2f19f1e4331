"""SkullVAE: completes defective human skulls and designs the cranial implant.

Research software, not a medical device, not for clinical use.
"""

__version__ = "0.1.0"

NOTICE = "Research software, not a medical device, not for clinical use."
