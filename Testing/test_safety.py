"""Nothing calls home, nothing tells of the patient, nothing in a file is run, and nothing is left lying about.

SECURITY.md says the same in words.
"""

from __future__ import annotations

import ast
import dataclasses
import gzip
import importlib.util
import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import golden
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import tiny
import torch
from PIL import Image

from SkullVAELib.cli import main as cli
from SkullVAELib.core import exit_codes
from SkullVAELib.core.atomic_output import atomic_file, publish_files, publish_folder
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.vae.checkpoint import load_any_model, load_model, read_tensors

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted(path for folder in ("SkullVAELib", "SkullVAE", "Training") for path in (ROOT / folder).rglob("*.py"))
SHIPPED += sorted((ROOT / "Docs" / "examples").rglob("*.py"))

# No network: every Python process that a command starts ends at the first thing it would do with one.
GUARD = """
    import atexit
    import os
    import sys

    WATCHED = (
        "socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind", "socket.getaddrinfo", "socket.gethostby",
        "urllib.Request", "http.client.", "ftplib.", "smtplib.", "imaplib.", "poplib.", "nntplib.", "telnetlib.",
    )


    def watch(event, arguments):
        if not event.startswith(WATCHED):
            return
        if event in ("socket.connect", "socket.bind"):
            # Unix sockets join a process to its own workers, and urllib3 binds one to the loopback as it is imported.
            address = arguments[1]
            if not isinstance(address, tuple) or (event == "socket.bind" and address[0] in ("::1", "127.0.0.1")):
                return
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{event} {arguments}\\n")
        os._exit(99)


    sys.addaudithook(watch)


    @atexit.register
    def list_modules():
        with open(os.environ["MODULES_LOG"], "w") as log:
            log.write("\\n".join(sorted(sys.modules)))
"""


def own_network() -> list[str]:
    """The beginning of a command that has no network at all, where the system lets us make one."""
    command = ["unshare", "--map-root-user", "--net"]
    try:
        permitted = subprocess.run([*command, "true"], capture_output=True).returncode == 0
    except OSError:
        permitted = False
    return command if permitted else []


class Offline:
    """Runs commands without a network.

    log: what they tried with one; temporary: their folder for temporary files; modules: what the last one imported.
    """

    def __init__(self, folder: Path):
        (folder / "guard").mkdir()
        (folder / "guard" / "sitecustomize.py").write_text(textwrap.dedent(GUARD), encoding="utf-8")
        self.log, self.temporary = folder / "network.log", folder / "temporary"
        self.modules = folder / "modules.log"
        self.temporary.mkdir()
        self._environment = tiny.environment(
            PYTHONPATH=os.pathsep.join([str(folder / "guard"), str(ROOT)]),
            NETWORK_LOG=str(self.log),
            MODULES_LOG=str(self.modules),
            TMPDIR=str(self.temporary),
        )
        self._prefix = own_network()

    def python(self, *arguments: object) -> subprocess.CompletedProcess:
        command = [*self._prefix, sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=self._environment, encoding="utf-8")

    def skullvae(self, *arguments: object) -> subprocess.CompletedProcess:
        process = self.python("-m", "SkullVAELib", *arguments)
        assert process.returncode == 0, process.stderr
        return process


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> Offline:
    return Offline(tmp_path_factory.mktemp("offline"))


@pytest.fixture
def untouched(offline):
    """Checks after the test that nothing was tried with a network and no temporary file was left.

    torch makes an empty folder for a compiler that is not used here.
    """
    yield
    assert not offline.log.exists(), offline.log.read_text(encoding="utf-8")
    assert not [path for path in offline.temporary.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize(
    "attempt",
    ["urllib.request.urlopen('http://127.0.0.1:9')", "socket.create_connection(('127.0.0.1', 9))"],
)
def test_the_guard_sees_an_attempt(tmp_path, attempt):
    guarded = Offline(tmp_path)
    assert guarded.python("-c", f"import socket, urllib.request; {attempt}").returncode == 99
    assert guarded.log.read_text(encoding="utf-8")


# What a scanner, a converter or a person may have written into an image's header.
SECRET = "DOE^JANE"
FIELDS = {"PatientName": SECRET, "0010|0010": SECRET, "content": f"of {SECRET}", "Comment": SECRET}


def told_on(path: Path) -> list[str]:
    """The header of an image with a patient's name in every place that its format has for one."""
    if path.name.endswith((".nii", ".nii.gz")):
        image = nib.load(path, mmap=False)
        for field in ("descrip", "aux_file", "db_name", "intent_name"):
            image.header[field] = SECRET
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET.encode()))
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)
    else:
        image = sitk.ReadImage(str(path))
        for field, value in FIELDS.items():
            image.SetMetaData(field, value)
        sitk.WriteImage(image, str(path), True)
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    assert SECRET.encode() in content


def contents(path: Path) -> bytes:
    """A file's bytes, and of a compressed NRRD those of its voxels, too."""
    content = path.read_bytes()
    if path.suffix == ".nrrd":
        header, _, data = content.partition(b"\n\n")
        content = header + gzip.decompress(data)
    return content


@pytest.fixture(scope="module")
def completed(offline, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A skull completed offline, with all there is to write, from a file whose header and folder name the patient."""
    place = tmp_path_factory.mktemp("completed")
    (place / SECRET).mkdir()
    skull = place / SECRET / "case7.nrrd"
    write_volume(read_volume(golden.SKULL), skull)
    told_on(skull)
    wishes = ["--proposals", "2", "--uncertainty", "--report", "--host", "--display", "--format", "stl,obj,ply"]
    process = offline.skullvae("complete", skull, "-o", place / "out", "--progress", "json", *wishes)
    shutil.copy(offline.modules, place / "modules.log")
    return place / "out", process


@pytest.mark.usefixtures("untouched")
def test_complete_needs_no_network_and_leaves_no_temporary_file(completed):
    folder, _ = completed
    assert {"completed.nrrd", "implant.stl", "report.html", "skull.stl"} <= {path.name for path in folder.iterdir()}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


# Large packages that are installed for training, tests or batches, or that torch and others import on certain calls.
UNNEEDED = {
    *("monai", "torch._dynamo", "torch._inductor", "sympy", "networkx", "torchvision", "triton", "tensorboardX"),
    *("matplotlib", "pandas", "dask", "distributed", "skimage", "nibabel", "requests", "urllib3", "jsonschema"),
    *("scipy.signal", "scipy.stats", "scipy.optimize", "scipy.interpolate", "scipy.io"),
}


def test_a_completion_with_all_its_files_imports_only_what_it_computes_with(completed):
    loaded = set((completed[0].parent / "modules.log").read_text(encoding="utf-8").splitlines())
    assert {"torch", "vtkmodules", "PIL", "scipy.ndimage", "SimpleITK"} <= loaded
    assert not loaded & UNNEEDED


def test_nothing_that_is_written_or_said_names_the_patient(completed):
    folder, process = completed
    for path in folder.iterdir():
        assert SECRET.encode() not in contents(path), path.name
        assert SECRET not in path.name
    assert SECRET not in process.stdout + process.stderr


def test_of_the_input_only_its_file_name_is_told_without_its_folder(completed):
    folder, _ = completed
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["input"] == "case7.nrrd"
    for name in ("report.json", "report.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert str(folder.parent) not in text
        assert str(Path.home()) not in text
    for path in folder.glob("*.nrrd"):
        header = path.read_bytes().partition(b"\n\n")[0].decode("ascii")
        assert ":=" not in header
    assert (folder / "implant.stl").read_bytes()[:80].startswith(b"SPACE=LPS UNIT=mm SkullVAE research software")
    with Image.open(folder / "preview.png") as picture:
        assert not set(picture.info) & {"Comment", "Title", "Author", "Software", "exif"}
        assert not picture.getexif()


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".nii.gz", ".mha"])
def test_no_format_s_header_comes_through(tmp_path, suffix):
    source = tmp_path / f"head{suffix}"
    write_volume(tiny.shell((72, 88, 78)), source)
    told_on(source)
    for target in (tmp_path / f"written{other}" for other in (".nrrd", ".nii", ".mha")):
        write_volume(read_volume(source), target)
        assert SECRET.encode() not in contents(target)


@pytest.mark.parametrize("suffix", [".nrrd", ".nii", ".mha"])
def test_the_error_about_a_damaged_file_does_not_quote_its_header(tmp_path, suffix, capfd):
    source = tmp_path / f"head{suffix}"
    write_volume(tiny.shell((72, 88, 78)), source)
    told_on(source)
    source.write_bytes(source.read_bytes()[:-2000])
    assert cli.main(["complete", str(source), "-o", str(tmp_path / "out")]) == exit_codes.BAD_INPUT
    said = "".join(capfd.readouterr())
    assert len(said.splitlines()) == 1
    assert SECRET not in said


@pytest.mark.usefixtures("untouched")
def test_evaluate_sample_mesh_and_info_need_no_network(offline, completed, tmp_path):
    implant = completed[0] / "implant.nrrd"
    for folder in ("truth", "prediction"):
        (tmp_path / folder).mkdir()
        write_volume(read_volume(implant), tmp_path / folder / "000.nrrd")
    offline.skullvae("evaluate", "--truth", tmp_path / "truth", "--prediction", tmp_path / "prediction")
    offline.skullvae("sample", "-o", tmp_path / "sample.nrrd")
    offline.skullvae("mesh", implant, "-o", tmp_path / "implant.stl")
    offline.skullvae("info")


@pytest.mark.usefixtures("untouched")
def test_population_needs_no_network(offline, tmp_path):
    heads = tiny.write_heads(tmp_path / "heads", ("ada", "out"))
    offline.skullvae("population", "--from", heads, "-o", tmp_path / "set", "--count", "1", "--spacing", "4")


@pytest.mark.usefixtures("untouched")
def test_training_needs_no_network(offline, tmp_path):
    few = dataclasses.replace(tiny.OPTIONS, vae_steps=2, decoder_steps=2, pool=2, save_every=2)
    config = tiny.write_config(tmp_path / "config.json", tiny.TINY, few)
    heads = tiny.write_heads(tmp_path / "heads", ("ada", "ben", "out"))
    process = offline.python(
        tiny.TRAIN, "all", "--data", heads, "--output", tmp_path / "run", "--config", config, "--holdout", "out"
    )
    assert process.returncode == 0, process.stderr


def imported(tree: ast.AST) -> set[str]:
    """Full names of what is imported from elsewhere."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def called(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call with the dotted name of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


NETWORK = ("socket", "ssl", "http", "urllib.request", "ftplib", "smtplib", "xmlrpc", "requests", "httpx", "aiohttp")
RUNS_CODE = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "runpy", "torch.hub")
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "torch.jit.load",
    "pandas.read_pickle",
}


@pytest.fixture
def demo():
    spec = importlib.util.spec_from_file_location("demo", ROOT / "Testing" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_takes_no_other_ct_than_the_known_one(demo, tmp_path, monkeypatch, capsys):
    def changed(folder: Path) -> bool:
        (folder / demo.PROJECT).parent.mkdir(parents=True)
        (folder / demo.PROJECT).write_bytes(b"something else")
        return True

    monkeypatch.setattr(demo, "fetch_package", changed)
    assert not demo.fetch_patient(tmp_path / "patient.nrrd")
    assert "another CT than the known one" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def one_of(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def test_one_module_alone_can_download():
    network = {
        path for path in SHIPPED if any(one_of(n, NETWORK) for n in imported(ast.parse(path.read_text("utf-8"))))
    }
    assert {path.name for path in network} == {"sampledata.py"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_runs_what_a_file_holds(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [name for name in imported(tree) if one_of(name, RUNS_CODE)]
    for name, call in called(tree):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert name not in FORBIDDEN_CALLS
        assert given.get("shell", "False") == "False"
        assert given.get("allow_pickle", "False") == "False"
        assert name != "torch.load" or given.get("weights_only") == "True"
        assert not name.endswith((".extractall", ".read_pickle"))


class Touch:
    """Unpickled, it makes a file: what a malicious model would do."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def malicious(kind: str, evidence: Path) -> bytes:
    """A file of a kind that runs code where somebody unpickles it."""
    file = io.BytesIO()
    if kind == "torch":
        torch.save({"state": Touch(evidence)}, file)
    elif kind == "old torch":
        torch.save({"state": Touch(evidence)}, file, _use_new_zipfile_serialization=False)
    elif kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Touch(evidence)))
    elif kind == "header":
        # As the length that a safetensors file begins with: little, and the pickle where the header should be.
        content = pickle.dumps(Touch(evidence))
        file.write(len(content).to_bytes(8, "little") + content)
    else:
        pickle.dump(Touch(evidence), file)
    return file.getvalue()


KINDS = ("pickle", "torch", "old torch", "zip", "header")


@pytest.mark.parametrize("kind", KINDS)
def test_the_malicious_files_are_what_they_claim(tmp_path, kind):
    content = malicious(kind, tmp_path / "evidence")
    if kind == "zip":
        content = zipfile.ZipFile(io.BytesIO(content)).read("archive/data.pkl")
    if kind in ("torch", "old torch"):
        torch.load(io.BytesIO(content), weights_only=False)
    else:
        pickle.loads(content[8:] if kind == "header" else content)
    assert (tmp_path / "evidence").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_model_file_never_runs_code(tmp_path, kind, suffix, capfd):
    path, evidence = tmp_path / f"model{suffix}", tmp_path / "evidence"
    path.write_bytes(malicious(kind, evidence))
    for load in (read_tensors, load_model, load_any_model):
        with pytest.raises(SkullVAEError, match="not a readable model file"):
            load(path)
    out = tmp_path / "out"
    assert cli.main(["complete", str(golden.SKULL), "-o", str(out), "--model", str(path)]) == exit_codes.BAD_INPUT
    assert cli.main(["info", "--model", str(path)]) == exit_codes.BAD_INPUT
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not out.exists()
    assert not evidence.exists()


@pytest.fixture
def open_umask():
    """Any new file may be read by all, unless somebody takes care."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no such permissions")
@pytest.mark.usefixtures("open_umask")
def test_what_is_being_prepared_is_private_and_then_gone(tmp_path):
    with publish_files(tmp_path / "out", ["a.nrrd", "report.json"]) as staging:
        assert mode(staging) == 0o700
        write_volume(tiny.shell((72, 88, 78)), staging / "a.nrrd")
        (staging / "left over").write_text("x", encoding="utf-8")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nrrd"]
    with pytest.raises(KeyError), publish_files(tmp_path / "other", ["report.json"]) as staging:
        raise KeyError
    assert not (tmp_path / "other").exists()
    with publish_folder(tmp_path / "set", lambda folder: False) as prepared:
        assert mode(prepared.parent) == 0o700
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no such permissions")
def test_results_have_the_permissions_that_the_user_s_umask_says(tmp_path):
    before = os.umask(0o077)
    try:
        write_volume(tiny.shell((72, 88, 78)), tmp_path / "a.nrrd")
        with atomic_file(tmp_path / "b.txt") as temporary:
            temporary.write_text("x", encoding="utf-8")
    finally:
        os.umask(before)
    assert mode(tmp_path / "a.nrrd") == mode(tmp_path / "b.txt") == 0o600
