"""The command `skullvae info`: prints software versions, devices, memory, disk space and the state of the model."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from SkullVAELib.cli.arguments import add_model_option
from SkullVAELib.core.console import print_message
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.exit_codes import BAD_INPUT, DONE
from SkullVAELib.core.files import as_json_text, file_sha256
from SkullVAELib.core.version import NOTICE, __version__

# Import name and name of the distribution, which may differ.
PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "torch": "torch",
    "nibabel": "nibabel",
    "SimpleITK": "SimpleITK",
    "vtkmodules": "vtk",
    "safetensors": "safetensors",
    "PIL": "pillow",
    "pydicom": "pydicom",
}


def add_parser(commands) -> None:
    """Add `info` to the command line."""
    info = commands.add_parser(
        "info",
        help="print versions, devices and the state of the model",
        description="Prints software versions, missing packages, devices, memory, disk space and whether the model"
        " loads: include it when you report a problem. Exit code 2 where the file of --model is not a usable model.",
    )
    add_model_option(info)
    info.add_argument("--json", action="store_true", help="print JSON instead of a table")
    info.set_defaults(run=run_info)


def run_info(options: argparse.Namespace) -> int:
    """Run `info` and return the exit code."""
    found = information(options.model)
    print(as_json_text(found) if options.json else as_text(found), end="" if options.json else "\n")
    if options.model is None or found["model"]["loads"] is not False:
        return DONE
    print_message(found["model"]["error"])
    return BAD_INPUT


def information(model: Path | None = None) -> dict:
    """Collect the content of `info`.

    Parameters
    ----------
    model : Path, optional
        Model file to load instead of the default model.

    Returns
    -------
    dict
        Plain values with the keys "software", "notice", "system", "packages" (version, or None for a missing package),
        "missing", "devices", "machine", "temporary_folder" and "model"; unknown values are None.
    """
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


def as_text(found: dict) -> str:
    """Return the result of `information` as a table, one row per line."""
    model, machine, temporary = found["model"], found["machine"], found["temporary_folder"]
    rows = [
        ("SkullVAE", found["software"].split()[-1]),
        ("Python", f"{found['system']['python']} ({found['system']['executable']})"),
        ("System", found["system"]["platform"]),
        *((name, version or "missing") for name, version in found["packages"].items()),
        *(("Device", _device_text(device)) for device in found["devices"]),
        ("Cores", str(machine["cores"])),
        ("Memory", _gib(machine["memory_gib"])),
        ("Free disk", f"{_gib(temporary['free_gib'])} in {temporary['path']}"),
        ("Model", model["path"] or "none"),
    ]
    if model["sha256"]:
        rows += [("Model size", f"{model['bytes'] / 1e6:.1f} MB"), ("Model SHA-256", model["sha256"])]
    loads = {True: "yes", False: f"no: {model['error']}", None: f"not tried: {model['error']}"}[model["loads"]]
    rows += [("Model loads", loads), ("Note", found["notice"])]
    return "\n".join(f"{name:<15}{value}" for name, value in rows)


def _version(module: str, name: str) -> str | None:
    """A package's version, None where it cannot be imported."""
    import importlib.metadata

    try:
        imported = importlib.import_module(module)
    except Exception:  # a broken installation, such as one with a missing shared library, can raise any exception
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # Slicer's own VTK is not installed by pip
        if module == "vtkmodules":
            from vtkmodules.vtkCommonCore import vtkVersion

            return vtkVersion.GetVTKVersion()
        return str(getattr(imported, "__version__", "unknown"))


def _devices() -> list[dict]:
    """The devices that torch can use; an empty list without torch."""
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
    except Exception:  # torch is missing or the driver does not match: the list stays empty
        return []


def _device_text(device: dict) -> str:
    if "kind" not in device:
        return f"{device['name']}, {device['threads']} threads"
    return f"{device['name']}, {device['kind']}, {device['memory_gib']} GiB, {device['free_gib']} GiB free"


def _memory_gib() -> float | None:
    """The machine's memory in GiB; None where it cannot be determined."""
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
    """Path, name, size and SHA-256 of the model file, whether it loads (None without packages) and why not."""
    keys = ("path", "name", "bytes", "sha256", "trained", "loads", "error")
    model: dict = dict.fromkeys(keys)
    try:
        from SkullVAELib.vae.checkpoint import load_any_model
        from SkullVAELib.vae.default_model import default_model_path
    except ImportError as error:
        if path is not None and path.is_file():
            model |= _file(path)
        return model | {"error": f"the package '{error.name}' is missing"}
    try:
        path = default_model_path() if path is None else path
        if path.is_file():
            model |= _file(path)
        loaded = load_any_model(path)
        return model | {"loads": True, "trained": loaded.provenance.get("trained")}
    except SkullVAEError as error:
        return model | {"path": None if path is None else str(path), "loads": False, "error": str(error)}


def _file(path: Path) -> dict:
    return {"path": str(path), "name": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}
