"""SkullVAE: completes defective human skulls and designs the cranial implant.

Research software, not a medical device, not for clinical use.

The names below are the public interface. They are loaded when they are first used, so that importing this package takes
a few milliseconds and needs neither torch nor VTK.

>>> import SkullVAELib as sv
>>> image = sv.read_image("head.nrrd")  # doctest: +SKIP
>>> result = sv.complete(image)  # doctest: +SKIP
>>> sv.write_result(result, "out")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from SkullVAELib.core.version import NOTICE, __version__

if TYPE_CHECKING:
    from SkullVAELib.api import complete, evaluate, load_model, make_implant, read_image, write_result
    from SkullVAELib.completion.options import CompletionOptions, DefectChoice
    from SkullVAELib.core.errors import SkullVAEError
    from SkullVAELib.geometry.roi import ROI
    from SkullVAELib.geometry.volume import Volume
    from SkullVAELib.implant.addition_options import AdditionOptions
    from SkullVAELib.implant.options import ImplantOptions
    from SkullVAELib.report.result_files import RunResult

_PUBLIC = {
    "AdditionOptions": "implant.addition_options",
    "CompletionOptions": "completion.options",
    "DefectChoice": "completion.options",
    "ImplantOptions": "implant.options",
    "ROI": "geometry.roi",
    "RunResult": "report.result_files",
    "SkullVAEError": "core.errors",
    "Volume": "geometry.volume",
    "complete": "api",
    "evaluate": "api",
    "load_model": "api",
    "make_implant": "api",
    "read_image": "api",
    "write_result": "api",
}

__all__ = [
    "NOTICE",
    "ROI",
    "AdditionOptions",
    "CompletionOptions",
    "DefectChoice",
    "ImplantOptions",
    "RunResult",
    "SkullVAEError",
    "Volume",
    "__version__",
    "complete",
    "evaluate",
    "load_model",
    "make_implant",
    "read_image",
    "write_result",
]


def __getattr__(name: str) -> object:
    """A public name, imported from its module at its first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
