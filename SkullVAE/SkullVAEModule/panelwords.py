"""Messages of the library in the words of the panel: they name options of the command line."""

from __future__ import annotations

import re

from slicer.i18n import tr as _


def inPanel(text: str) -> str:
    """A message of the library with the names that the panel has for options; other options stay as they are.

    >>> inPanel("Choose a lower --threshold.")
    "Choose a lower 'Threshold'."
    >>> inPanel("If you see the hole, point to it with --at R,A,S (in Slicer: Point at a hole).")
    "If you see the hole, point to it with 'Point at a hole'."
    """
    for option, words in _words().items():
        # A function, since words may contain backslashes once they are translated.
        text = re.sub(option, lambda found, words=words: words, text)
    return text


def _words() -> dict[str, str]:
    """Patterns of what the library writes: what the panel shows instead; the first that fits counts."""
    return {
        r" \(in Slicer: [^)]*\)": "",
        r"\bmm2\b": "mm\u00b2",
        r"a constant thickness leaves it open": _("'Constant' in the list 'Thickness' under Implant leaves it open"),
        r"choose another thickness\b": _("choose another 'Thickness' under Implant"),
        r"Request a minimum thickness\.": _("Choose 'At least' in the list 'Thickness' under Implant."),
        r"--defects or --at, or check it in the list of candidate defects in Slicer": _(
            "'Point at a hole', or check it under Defects"
        ),
        r"--not-at or the list of candidate defects in Slicer leaves it open": _(
            "uncheck it under Defects to leave it open"
        ),
        r"--at R,A,S|--at\b": _("'Point at a hole'"),
        r"--fragments ignore": _("'Ignore' in the list 'Loose bone' under Advanced"),
        r"--fragments keep": _("'Keep' in the list 'Loose bone' under Advanced"),
        r"--threshold\b": _("'Threshold'"),
        r"--roi\b": _("the ROI under Input"),
        r"--reference\b": _("'Earlier bone' under Input"),
        r"--segment\b": _("'Label value' under Advanced"),
        r"--proposals\b": _("'Proposals' under Implant"),
        r"--screws\b": _("'Min. bone' under Fixation"),
        r"--tab-at\b": _("'Place a tab' under Fixation"),
        r"--engrave-size\b": _("'Text height'"),
        r"--insertable\b": _("'Insertable along a straight line' under Insertion"),
        r"--face\b": _("'Also complete the face' under Defects"),
        r"--split\b": _("'Max. length' under Advanced"),
        r"--device cpu\b": _("'cpu' in the list 'Device' under Advanced"),
        r"--prior\b": _("'Prior' under Advanced"),
        r"--gamma\b": _("'Gamma' under Advanced"),
        r"--model\b": _("'Add model from file' under Advanced"),
    }
