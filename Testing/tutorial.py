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


class Tutorial:
    """Runs the steps of the tutorial and saves a picture of each.

    widget: the module's panel; folder: folder of the pictures.
    """

    def __init__(self, widget, folder: Path):
        self.widget = widget
        self.ui = widget.ui
        self.folder = folder
        self.pictures: list[Path] = []

    def shoot(self, name: str, scroll: str | None = None) -> None:
        """Save a picture of the whole window; scroll: name of the panel's widget that must be visible."""
        from slicer_standin import views

        path = self.folder / f"{len(self.pictures) + 1}_{name}.jpg"
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "window.png"
            views.screenshot(self.widget, whole, scrollTo=scroll)
            # JPEG has a fifth of the PNG's size; the pictures are in the repository.
            Image.open(whole).convert("RGB").save(path, quality=90, optimize=True)
        self.pictures.append(path)
        print(path.name, flush=True)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Process events until the condition is true."""
        import slicer_standin

        end = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"timeout, last status: {self.ui.statusLabel.text}")
            slicer_standin.processEvents(0.02)

    def run(self, load: Callable[[], object]) -> None:
        """Run all eight steps. load: adds the input to the scene and returns its node."""
        ui, logic = self.ui, self.widget.logic
        node = load()
        parameters = logic.getParameterNode()
        parameters.inputNode = node
        self.shoot("load")

        ui.thresholdPreviewCheckBox.checked = True
        ui.thresholdSlider.value = 300
        self.shoot("threshold")
        ui.thresholdPreviewCheckBox.checked = False

        ui.implantCollapsibleButton.collapsed = False
        ui.thicknessComboBox.currentText = "Constant"
        ui.thicknessSpinBox.value = 4
        ui.holesCheckBox.checked = True
        ui.proposalsSpinBox.value = 3
        self.shoot("implant", "implantCollapsibleButton")

        ui.completeButton.click()
        self.wait(lambda: logic.fraction > 0.5 or not logic.running)
        self.shoot("progress", "progressBar")

        self.wait(lambda: not logic.running)
        if logic.added is None:
            raise RuntimeError(ui.statusLabel.text)
        self.shoot("result", "resultCollapsibleButton")

        ui.proposalComboBox.currentIndex = 1
        self.wait(lambda: not logic.responsePending)
        self.shoot("proposals", "resultCollapsibleButton")
        ui.proposalComboBox.currentIndex = 0
        self.wait(lambda: not logic.responsePending)

        ui.thicknessComboBox.currentText = "Patient's own"
        self.wait(lambda: logic.responsePending)
        self.wait(lambda: not logic.responsePending)
        ui.showThicknessCheckBox.checked = True
        self.shoot("thickness", "resultCollapsibleButton")

        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            Path("Implant").mkdir()
            parameters.exportFolder = "Implant"
            ui.exportButton.click()
            self.wait(lambda: not self.widget.exportSection.running)
            print("exported:", ", ".join(sorted(path.name for path in Path("Implant").iterdir())))
            self.shoot("export", "exportCollapsibleButton")


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
