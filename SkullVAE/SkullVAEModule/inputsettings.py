"""The settings of each input, which come back when it is chosen again; saved with the scene."""

from __future__ import annotations

import json

import slicer

from .parameters import SkullVAEParameterNode

# Parameters that belong to an input.
NAMES = (
    "boneThreshold", "defectKind", "gamma", "proposals", "face", "defectChoices", "fragments", "label", "prior",
    "clearance", "thickness", "thicknessMillimetres", "underContour", "smoothing", "holes", "holeDiameter",
    "holePitch", "holeMargin", "split", "tabs", "tabThickness", "screwDiameter", "screwBone", "flange", "flangeWidth",
    "flangeThickness", "flangeScrews", "drainDiameter", "engraving", "engravingHeight", "engravingDepth",
    "buildUpRadius", "buildUpThickness", "insertable", "insertionDepth",
)  # fmt: skip

# The patient's earlier bone, which another input must not take over.
_REFERENCE = {"referenceNode": None, "referenceSegmentID": "", "referenceFile": ""}


class InputSettings:
    """Keeps the settings of every input but the current one in the parameter `settingsOfInputs`.

    memory: what else the panel keeps for each input while it is open, by node ID and segment ID.
    """

    def __init__(self) -> None:
        self.memory: dict[tuple[str, str], object] = {}
        self._current: tuple[str, str] | None = None

    def switch(self, parameters: SkullVAEParameterNode, key: tuple[str, str], state: object, default: object) -> object:
        """Make an input the current one, with its settings if it had any.

        key: node ID and segment ID of the input; state: what the panel keeps for the input before it. Returns what it
        keeps for this input, or the default.
        """
        before, self._current = self._current, key
        if before == key:
            return state
        if before is None:
            # The parameters are those of this input: the panel or a scene was opened.
            return self.memory.get(key, state)
        self.memory[before] = state
        saved = _read(parameters.settingsOfInputs)
        saved[_name(before)] = {name: _stored(getattr(parameters, name)) for name in (*NAMES, *_REFERENCE)}
        own = saved.pop(_name(key), {})
        parameters.settingsOfInputs = json.dumps(saved)
        for name in NAMES:
            if name in own and getattr(parameters, name) != own[name]:
                setattr(parameters, name, own[name])
        for name, initial in _REFERENCE.items():
            wanted = own.get(name, initial)
            if name == "referenceNode" and wanted is not None:
                wanted = slicer.mrmlScene.GetNodeByID(wanted)
            if getattr(parameters, name) != wanted:
                setattr(parameters, name, wanted)
        return self.memory.get(key, default)

    def leave(self, state: object) -> None:
        """Called when the panel leaves the parameters, such as when another scene is loaded."""
        if self._current is not None:
            self.memory[self._current] = state
        self._current = None


def _stored(value):
    """A value as JSON stores it: a node by its ID."""
    return value.GetID() if hasattr(value, "GetID") else value


def _name(key: tuple[str, str]) -> str:
    return " ".join(key)


def _read(text: str) -> dict:
    try:
        saved = json.loads(text or "{}")
    except ValueError:
        return {}
    return saved if isinstance(saved, dict) else {}
