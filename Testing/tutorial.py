"""Makes the pictures of the tutorial by running its steps: `make tutorial`.

Operates the module's panel in the tests' stand-in for Slicer's application, with a real MRML scene. Panel, slice views
and 3D view in the pictures are rendered from that scene; the window frame is not Slicer's. The input is the patient of
the demo (run `make demo` first, which downloads the CT), or with --generated a skull sampled from the model.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "Testing")]

PATIENCE_S = 300
# No picture is larger, since the repository keeps every version.
MOST_BYTES = 150_000
# A point in the defect of the demo's patient, RAS mm.
DEFECT = (28.7, 58.4, 24.8)


class Tutorial:
    """Runs the steps of the tutorial and saves a picture of each.

    widget: the module's panel; folder: folder of the pictures.
    """

    def __init__(self, widget, folder: Path):
        self.widget = widget
        self.ui = widget.ui
        self.folder = folder
        self.pictures: list[Path] = []

    def shoot(self, name: str, fit: bool = False) -> None:
        """Save a picture of the whole window.

        fit: whether the slice views show the whole image.
        """
        from slicer_standin import views

        path = self.folder / f"{len(self.pictures) + 1}_{name}.jpg"
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "window.png"
            views.screenshot(self.widget, whole, fit=fit)
            # JPEG has a fifth of the PNG's size; the pictures are in the repository.
            save(Image.open(whole).convert("RGB"), path)
        self.pictures.append(path)
        print(path.name, path.stat().st_size, flush=True)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Process events until the condition is true."""
        import slicer_standin

        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"timeout, last status: {self.ui.statusLabel.text}")
            slicer_standin.processEvents(0.02)

    def settle(self) -> None:
        """Wait until the panel has requested what was changed, and the responses are in the scene."""
        import slicer_standin

        # The panel waits for half a second after an edit.
        slicer_standin.processEvents(1.0)
        self.wait(lambda: not self.widget.logic.responsePending)
        slicer_standin.processEvents(0.2)

    def run(self, load: Callable[[], object]) -> None:
        """Run all steps. load: adds the input to the scene and returns its node."""
        import slicer_standin

        ui, logic = self.ui, self.widget.logic
        node = load()
        # The panel chooses what is loaded.
        self.wait(lambda: ui.inputSelector.currentNode() is node)
        self.shoot("load", fit=True)

        self.jump(DEFECT)
        slicer_standin.click(ui.thresholdPreviewCheckBox)
        self.shoot("threshold", fit=True)

        ui.completeButton.click()
        self.wait(lambda: logic.fraction > 0.5 or not logic.running)
        self.shoot("progress", fit=True)
        self.wait(lambda: not logic.running)
        if logic.added is None:
            raise RuntimeError(ui.statusLabel.text)
        self.shoot("result")

        ui.differenceButton.click()
        ui.translucentCheckBox.checked = True
        self.shoot("difference")
        ui.afterButton.click()
        ui.translucentCheckBox.checked = False

        self.toggle(ui.resultCollapsibleButton)
        self.toggle(ui.defectsCollapsibleButton)
        self.shoot("defects")
        self.toggle(ui.defectsCollapsibleButton)

        self.toggle(ui.implantCollapsibleButton)
        slicer_standin.choose(ui.thicknessComboBox, "Constant")
        slicer_standin.typeText(ui.thicknessSpinBox, "4", "\t")
        slicer_standin.click(ui.holesCheckBox)
        self.settle()
        self.toggle(ui.resultCollapsibleButton)
        ui.showThicknessCheckBox.checked = True
        self.shoot("implant")
        ui.showThicknessCheckBox.checked = False
        self.toggle(ui.resultCollapsibleButton)

        slicer_standin.click(ui.editGroup)
        ui.surfacePointButton.click()
        slicer_standin.processEvents()
        slicer_standin.clickInSlice("Red", self.outside(2.0))
        self.settle()
        self.shoot("edit")
        # The section of the result stays closed, so that the whole of the export is in the picture.
        self.toggle(ui.implantCollapsibleButton)

        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path("Implant").mkdir()
            slicer_standin.typeText(ui.exportFolderPathLineEdit, "Implant")
            slicer_standin.processEvents(0.1)
            slicer_standin.click(ui.exportButton)
            self.wait(lambda: not self.widget.exportSection.running)
            slicer_standin.processEvents(0.2)
            print("exported:", ", ".join(sorted(path.name for path in Path("Implant").iterdir())))
            self.shoot("export")

    def toggle(self, section) -> None:
        """Open or close a section with the mouse, as the user does; the panel then leaves it so."""
        import slicer_standin

        section.click()
        slicer_standin.processEvents()

    def jump(self, ras) -> None:
        """Show a point in all slice views."""
        import slicer

        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *ras)

    def outside(self, millimetres: float) -> tuple[float, ...]:
        """The point this far outside the middle of the implant's outer surface, RAS mm."""
        import numpy as np
        from SkullVAEModule.meshnodes import meshData

        added = self.widget.logic.added
        implant = meshData(added.implantModelNode.GetPolyData()).points
        skull = meshData(added.skullModelNode.GetPolyData()).points
        outwards = implant.mean(axis=0) - skull.mean(axis=0)
        outwards /= np.linalg.norm(outwards)
        across = implant - implant.mean(axis=0)
        across -= np.outer(across @ outwards, outwards)
        near = implant[np.linalg.norm(across, axis=1) < 3]
        return tuple((near[(near @ outwards).argmax()] + millimetres * outwards).tolist())


def save(picture: Image.Image, path: Path) -> None:
    """Save as JPEG in the best quality that fits into MOST_BYTES."""
    for quality in range(90, 40, -3):
        picture.save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size <= MOST_BYTES:
            return
    raise ValueError(f"'{path}' is larger than {MOST_BYTES} bytes.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ct",
        type=Path,
        default=ROOT / "demo" / "patient_ct.nrrd",
        help="CT of the patient; default: the demo's",
    )
    parser.add_argument("--generated", action="store_true", help="use a skull sampled from the model")
    parser.add_argument("--output", type=Path, default=ROOT / "Docs" / "images" / "tutorial")
    arguments = parser.parse_args()
    if not arguments.generated and not arguments.ct.is_file():
        print(f"'{arguments.ct}' does not exist. Run make demo first, or use --generated.", file=sys.stderr)
        return 2
    import slicer_standin

    slicer_standin.prepare()
    slicer_standin.newScene()
    _, widget = slicer_standin.openModule()

    def load():
        import slicer
        from SkullVAEModule.sampledata import loadGenerated

        if arguments.generated:
            return loadGenerated()
        return slicer.util.loadVolume(str(arguments.ct))

    arguments.output.mkdir(parents=True, exist_ok=True)
    arguments.output = arguments.output.resolve()
    try:
        Tutorial(widget, arguments.output).run(load)
    finally:
        slicer_standin.closeModule(widget)
    return 0


if __name__ == "__main__":
    sys.exit(main())
