"""The command `skullvae info`: what is installed, what the machine has, and whether the model loads."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from SkullVAELib import NOTICE, __version__
from SkullVAELib.core.console import print_message
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import BAD_INPUT, DONE
from SkullVAELib.core.files import as_json_text, file_sha256

# Import name, and name in the package index where it is another.
PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "torch": "torch",
    "monai": "monai",
    "nibabel": "nibabel",
    "SimpleITK": "SimpleITK",
    "vtkmodules": "vtk",
    "safetensors": "safetensors",
    "PIL": "pillow",
}


def add_parser(commands) -> None:
    """Add `info` to the command line."""
    info = commands.add_parser(
        "info",
        help="what is installed, and whether the model loads",
        description="Tells versions, devices, memory, disk and the model: what a report of a problem should say. A"
        " package that is missing is named. Exit code 2 when a model named by --model cannot be used.",
    )
    info.add_argument("--model", metavar="FILE", type=Path, help="model file instead of the shipped one")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(run=run_info)


def run_info(options: argparse.Namespace) -> int:
    """`info`: the table on stdout, or JSON."""
    told = information(options.model)
    print(as_json_text(told) if options.json else as_text(told), end="" if options.json else "\n")
    if options.model is None or told["model"]["loads"] is not False:
        return DONE
    print_message(told["model"]["error"])
    return BAD_INPUT


def information(model: Path | None = None) -> dict:
    """What `info` tells, as plain values: "software", "notice", "system", "packages" (version, or None where the
    package is missing), "missing", "devices", "machine", "temporary_folder" and "model" (None for what is unknown)."""
    packages = {name: _version(module, name) for module, name in PACKAGES.items()}
    return {
        "software": f"SkullVAE {__version__}",
        "notice": NOTICE,
        "system": {"platform": platform.platform(), "python": platform.python_version(), "executable": sys.executable},
        "packages": packages,
        "missing": [name for name, version in packages.items() if version is None],
        "devices": _devices(),
        "machine": {"cores": os.cpu_count(), "memory_gib": _memory_gib()},
        "temporary_folder": _temporary_folder(),
        "model": _model(model),
    }


def as_text(told: dict) -> str:
    """The same for people: one thing a line."""
    model, machine, temporary = told["model"], told["machine"], told["temporary_folder"]
    rows = [
        ("SkullVAE", told["software"].split()[-1]),
        ("Python", f"{told['system']['python']} ({told['system']['executable']})"),
        ("System", told["system"]["platform"]),
        *((name, version or "missing") for name, version in told["packages"].items()),
        *(("Device", _device_text(device)) for device in told["devices"]),
        ("Cores", str(machine["cores"])),
        ("Memory", _gib(machine["memory_gib"])),
        ("Free disk", f"{_gib(temporary['free_gib'])} in {temporary['path']}"),
        ("Model", model["path"] or "none"),
    ]
    if model["sha256"]:
        rows += [("Model size", f"{model['bytes'] / 1e6:.1f} MB"), ("Model SHA-256", model["sha256"])]
    loads = {True: "yes", False: f"no: {model['error']}", None: f"not tried: {model['error']}"}[model["loads"]]
    rows += [("Model loads", loads), ("Note", told["notice"])]
    return "\n".join(f"{name:<15}{value}" for name, value in rows)


def _version(module: str, name: str) -> str | None:
    """A package's version, None where it cannot be imported."""
    try:
        imported = importlib.import_module(module)
    except Exception:  # a package that is there but broken, as with a missing library, raises what it likes
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # inside Slicer vtk is no package of pip's
        if module == "vtkmodules":
            from vtkmodules.vtkCommonCore import vtkVersion

            return vtkVersion.GetVTKVersion()
        return str(getattr(imported, "__version__", "unknown"))


def _devices() -> list[dict]:
    """The devices torch can compute on; none without torch."""
    try:
        import torch

        found = [{"name": "cpu", "threads": torch.get_num_threads()}]
        for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            free, total = torch.cuda.mem_get_info(number)
            found.append(
                {
                    "name": f"cuda:{number}",
                    "kind": torch.cuda.get_device_name(number),
                    "memory_gib": round(total / 2**30, 1),
                    "free_gib": round(free / 2**30, 1),
                }
            )
        return found
    except Exception:  # no torch, or a driver that does not fit: the table says so by what is not in it
        return []


def _device_text(device: dict) -> str:
    if "kind" not in device:
        return f"{device['name']}, {device['threads']} threads"
    return f"{device['name']}, {device['kind']}, {device['memory_gib']} GiB, {device['free_gib']} GiB free"


def _memory_gib() -> float | None:
    """The machine's memory, None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        pass
    if sys.platform == "win32":
        import ctypes

        class Status(ctypes.Structure):
            _fields_ = (
                ("length", ctypes.c_ulong),
                ("load", ctypes.c_ulong),
                *((name, ctypes.c_ulonglong) for name in ("total", "free", *"abcde")),
            )

        status = Status(length=ctypes.sizeof(Status))
        if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            return round(status.total / 2**30, 1)
    return None


def _temporary_folder() -> dict:
    folder = tempfile.gettempdir()
    try:
        free = round(shutil.disk_usage(folder).free / 2**30, 1)
    except OSError:
        free = None
    return {"path": folder, "free_gib": free}


def _gib(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g} GiB"


def _model(path: Path | None) -> dict:
    """The model file: path, name, size, SHA-256, whether it loads (None where packages are missing), and why not."""
    told = {"path": None, "name": None, "bytes": None, "sha256": None, "trained": None, "loads": None, "error": None}
    try:
        from SkullVAELib.vae.checkpoint import load_any_model
        from SkullVAELib.vae.default_model import default_model_path
    except ImportError as error:
        if path is not None and path.is_file():
            told |= _file(path)
        return told | {"error": f"the package '{error.name}' is missing"}
    try:
        path = default_model_path() if path is None else path
        if path.is_file():
            told |= _file(path)
        model = load_any_model(path)
        return told | {"loads": True, "trained": model.provenance.get("trained")}
    except SkullVAEError as error:
        return told | {"path": None if path is None else str(path), "loads": False, "error": str(error)}


def _file(path: Path) -> dict:
    return {"path": str(path), "name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
