"""Claims about the comparison of two versions: it finds the smallest change, and excuses only what it says."""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import compare_versions
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image, PngImagePlugin
from safetensors.numpy import save
from versions.cases import CASES
from versions.comparison import EVENTS, Rules, byte_difference, compare_recordings, match
from versions.inputs import RecordingError, make_inputs
from versions.process import PINNED_VERSION
from versions.recording import record

REPORT = {
    "software": "SkullVAE 0.1.0",
    "version": "0.1.0",
    "found": True,
    "implant": {"volume_ml": 36.706, "pieces": 1},
    "passed_over": [{"ml": 1.5, "because": "A gap at the base"}],
    "model": {"sha256": "ab12"},
    "warnings": ["The score is low."],
    "files": ["host.stl", "implant.stl"],
    "seconds": {"total": 12.5},
}

WEIGHTS = {"encoder.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "bias": np.ones(2, np.float16)}


def write_volume(path: Path, change: int = 0, origin: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    array[1, 1, 2] += change
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.4, 0.5, 0.6))
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path), useCompression=True)


def stl(header: bytes = b"SPACE=LPS UNIT=mm SkullVAE", shift: float = 0.0) -> bytes:
    facet = np.zeros(2, [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    facet["corners"] = np.arange(18).reshape(2, 3, 3) + shift
    return header.ljust(80) + struct.pack("<I", 2) + facet.tobytes()


def ply(comment: str = "SkullVAE: SPACE=LPS UNIT=mm", element: str = "element vertex 1") -> bytes:
    head = f"ply\nformat binary_little_endian 1.0\ncomment {comment}\n{element}\nproperty float x\nend_header\n"
    return head.encode() + struct.pack("<f", 2.5)


def obj(comment: str = "SkullVAE: SPACE=LPS", point: str = "v 0.1000 0.2000 0.3000") -> bytes:
    return f"# {comment}\no implant\n{point}\n".encode()


def png(value: int = 7, text: str | None = None, place: tuple[int, int] = (3, 4)) -> bytes:
    pixels = np.full((10, 12, 3), 7, np.uint8)
    pixels[place] = value
    about = PngImagePlugin.PngInfo()
    if text is not None:
        about.add_text("Software", text)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", pnginfo=about)
    return content.getvalue()


def weights(change: float = 0.0, **metadata: object) -> bytes:
    changed = {name: value.copy() for name, value in WEIGHTS.items()}
    changed["encoder.weight"][1, 2] += change
    about = {"seconds": 5.0, "provenance": {"trained": "2026-01-02", "beta": 1.0}} | metadata
    return save(changed, {key: json.dumps(value) for key, value in about.items()})


def page(picture: bytes, cell: str = "24.49 ml", text: str = "Made on 2026-01-02.", entries: int = 1) -> bytes:
    source = base64.b64encode(picture).decode()
    listed = "<li>A warning</li>" * entries
    return f'<p>{text}</p><ul>{listed}</ul><td>{cell}</td><img src="data:image/png;base64,{source}">'.encode()


# A file of tensorboardX: the start of a session, "loss" and "seconds" of step 1, "loss" of step 300.
EVENT_FILE = base64.b64decode(
    "GAAAAAAAAACjf0siCU79ZxMJw9pBGg1icmFpbi5FdmVudDoyETvj3w8AAAAAAAAAbVMrCQkAAAAAAAD4PxABOgIIASlnwokqAAAAAAAAAK6NkfUJAAAA"
    "AAAABEAQASodCgsKBGxvc3MVAABEQQoOCgdzZWNvbmRzFQAAAD+o3ODXGwAAAAAAAAAaDZ4TCQAAAAAAAAxAEKwCKg0KCwoEbG9zcxUAAAAA963bHw=="
)


def event(step: int, tag: str, number: float, wall_time: float) -> bytes:
    """A record of an event file, its checksums left at 0."""
    value = b"\x0a" + bytes([len(tag)]) + tag.encode() + b"\x15" + struct.pack("<f", number)
    summary = b"\x0a" + bytes([len(value)]) + value
    content = b"\x09" + struct.pack("<d", wall_time) + bytes([0x10, step, 0x2A, len(summary)]) + summary
    return struct.pack("<QI", len(content), 0) + content + bytes(4)


def event_file(folder: Path, values: list[tuple[int, str, float]], wall_time: float = 1.0) -> None:
    """A TensorBoard event file as a training names it: by the time, the host and the first step."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{1795957837 + wall_time:.0f}.host.{values[0][0]}"
    path.write_bytes(b"".join(event(*value, wall_time + value[0]) for value in values))


def write_recording(folder: Path) -> Path:
    """A recording of one case with a file of every kind."""
    case = folder / "demo"
    case.mkdir(parents=True)
    write_volume(case / "implant.nrrd")
    (case / "implant.stl").write_bytes(stl())
    (case / "host.stl").write_bytes(stl())
    (case / "implant.ply").write_bytes(ply())
    (case / "implant.obj").write_bytes(obj())
    (case / "preview.png").write_bytes(png())
    (case / "model.safetensors").write_bytes(weights())
    (case / "report.json").write_text(json.dumps(REPORT), encoding="utf-8")
    (case / "report.html").write_bytes(page(png()))
    (case / "log.csv").write_text("stage,step,seconds,loss\nvae,1,0.5,12.25\nvae,2,0.9,11.5\n", encoding="utf-8")
    (case / "answers.jsonl").write_text(
        '{"answer": 1, "seconds": 0.3}\n{"answer": 2, "error": "Choose 1 to 5."}\n', encoding="utf-8"
    )
    (case / "table.txt").write_text("case DSC\n000 0.945\n", encoding="utf-8")
    event_file(case / "tensorboard/vae", [(1, "loss", 12.25), (1, "seconds", 0.5), (2, "loss", 11.5)])
    commands = [{"name": "complete", "arguments": ["complete"], "code": 0}]
    about = {"cases": {"demo": {"commands": commands, "error": None}}, "sources": {}, "packages": {"torch": "2"}}
    (folder / "recording.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


# What is always excused, without the tables of renames, which change with every release.
RULES = Rules(excused_fields=compare_versions.EXCUSED_FIELDS, texts=compare_versions.TEXTS)


@pytest.fixture
def before(tmp_path) -> Path:
    return write_recording(tmp_path / "before")


@pytest.fixture
def after(before, tmp_path) -> Path:
    """A copy of the recording, to be changed."""
    return Path(shutil.copytree(before, tmp_path / "after"))


def differences(before: Path, after: Path, rules: Rules = RULES) -> list[str]:
    return compare_recordings(before, after, rules).differences


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_a_recording_equals_itself(before, after, capsys):
    assert compare_versions.main(["compare", str(before), str(after)]) == 0
    assert capsys.readouterr().out == ""


# What must be found


def changed_voxel(case: Path) -> None:
    write_volume(case / "implant.nrrd", change=1)


def changed_place(case: Path) -> None:
    write_volume(case / "implant.nrrd", origin=(0.0, 0.0, 0.1))


def replaced(name: str, content: bytes):
    return lambda case: (case / name).write_bytes(content)


def in_text(name: str, old: str, new: str):
    return lambda case: (case / name).write_text(
        (case / name).read_text(encoding="utf-8").replace(old, new), encoding="utf-8"
    )


CHANGES = {
    "a voxel": (changed_voxel, "implant.nrrd: of the voxels, 1 of 60 bytes differ"),
    "the place of a volume": (changed_place, "implant.nrrd: the header has"),
    "a triangle": (replaced("implant.stl", stl(shift=1e-3)), "implant.stl: 2 of 2 triangles differ, by up to 0.001"),
    "the coordinate system of an STL": (replaced("implant.stl", stl(b"SPACE=RAS UNIT=mm")), "SPACE=RAS"),
    "a point of a PLY": (replaced("implant.ply", ply()[:-1] + b"A"), "implant.ply: after the header, 1 of 4 bytes"),
    "the elements of a PLY": (replaced("implant.ply", ply(element="element face 1")), "'element face 1'"),
    "a point of an OBJ": (replaced("implant.obj", obj(point="v 0.1000 0.2000 0.3001")), "implant.obj: 1 lines differ"),
    "a pixel": (replaced("preview.png", png(8)), "preview.png: 1 of 120 pixels differ, all of them from 4,3 to 4,3"),
    "a weight": (replaced("model.safetensors", weights(1e-6)), "model.safetensors: of tensor encoder.weight, "),
    "an option in a model": (
        replaced("model.safetensors", weights(provenance={"trained": "2026-01-02", "beta": 2.0})),
        "model.safetensors provenance.beta: 2.0, before 1.0",
    ),
    "a number": (in_text("report.json", "36.706", "36.707"), "report.json implant.volume_ml: 36.707, before 36.706"),
    "a whole number that is none any more": (in_text("report.json", '"pieces": 1', '"pieces": 1.0'), "implant.pieces"),
    "a hash": (in_text("report.json", "ab12", "ab13"), "report.json model.sha256"),
    "a field that is gone": (in_text("report.json", '"found": true, ', ""), "report.json found: missing now"),
    "another number of warnings": (in_text("report.json", '["The score is low."]', "[]"), "warnings: 0 texts"),
    "a file that is not named": (in_text("report.json", "host.stl", "other.stl"), "report.json files"),
    "a figure in a table": (in_text("log.csv", "11.5", "11.25"), 'log.csv [1].loss: "11.25", before "11.5"'),
    "a row": (in_text("log.csv", "vae,2,0.9,11.5\n", ""), "log.csv: 1 entries, before 2"),
    "a column": (in_text("log.csv", "loss", "distance"), "log.csv: columns"),
    "an answer": (in_text("answers.jsonl", '"answer": 2', '"answer": 3'), "answers.jsonl [1].answer: 3, before 2"),
    "an error that is none any more": (in_text("answers.jsonl", '"Choose 1 to 5."', "null"), "answers.jsonl [1].error"),
    "a number on stdout": (in_text("table.txt", "0.945", "0.944"), "table.txt: numbers"),
    "a figure of an HTML report": (replaced("report.html", page(png(), "24.48 ml")), "report.html: a cell holds"),
    "a picture of an HTML report": (replaced("report.html", page(png(8))), "report.html, picture 1: 1 of 120 pixels"),
    "a warning of an HTML report": (replaced("report.html", page(png(), entries=2)), "2 list entries, before"),
    "a missing file": (lambda case: (case / "host.stl").unlink(), "host.stl: missing now"),
    "a further file": (lambda case: (case / "more.stl").write_bytes(stl()), "more.stl: was not there before"),
    "a damaged file": (replaced("preview.png", b"no picture"), "cannot be read as what its suffix says"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_it_finds(before, after, what):
    change, line = CHANGES[what]
    change(after / "demo")
    found = differences(before, after)
    assert len(found) == 1
    assert line in found[0]
    assert found[0].startswith("demo/")


def test_it_finds_any_changed_byte_of_a_result(before, after):
    """Every byte but those that hold a text: a mesh, a volume and the weights, at twelve places each."""
    heads = {"implant.stl": 80, "implant.nrrd": 0, "model.safetensors": None}
    for name, start in heads.items():
        path = after / "demo" / name
        content = path.read_bytes()
        start = 8 + struct.unpack("<Q", content[:8])[0] if start is None else start
        for at in np.linspace(start, len(content) - 1, 12).astype(int):
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            assert differences(before, after), f"byte {at} of {name}"
        path.write_bytes(content)


def test_it_finds_a_changed_figure_for_tensorboard(before, after):
    shutil.rmtree(after / "demo/tensorboard")
    event_file(after / "demo/tensorboard/vae", [(1, "loss", 12.25), (1, "seconds", 0.5), (2, "loss", 11.25)])
    assert differences(before, after) == [f"demo/tensorboard/vae/{EVENTS}: loss of step 2 is 11.25, before 11.5"]


def test_it_reads_what_tensorboardx_writes(before, after):
    names = []
    for folder in (before, after):
        place = folder / "demo/tensorboard/decoder"
        place.mkdir()
        (place / "events.out.tfevents.1795957837.vm.1").write_bytes(EVENT_FILE)
        names.append(place)
    assert differences(before, after) == []
    path = names[1] / "events.out.tfevents.1795957837.vm.1"
    path.write_bytes(EVENT_FILE.replace(struct.pack("<f", 12.25), struct.pack("<f", 12.5)))
    line = f"demo/tensorboard/decoder/{EVENTS}: loss of step 1 is 12.5, before 12.25"
    assert differences(before, after) == [line]
    path.write_bytes(EVENT_FILE[:-40])
    assert differences(before, after)[0].endswith("loss of step 300 is None, before 0.0")


def test_it_finds_another_exit_code_and_a_failed_case(before, after):
    about = json.loads((after / "recording.json").read_text(encoding="utf-8"))
    about["cases"]["demo"]["commands"][0]["code"] = 2
    about["cases"]["demo"]["error"] = "complete ended with exit code 2"
    (after / "recording.json").write_text(json.dumps(about), encoding="utf-8")
    first, second = differences(before, after)
    assert first == "demo, command complete: exit code 0 before, 2 now"
    assert "failed now" in second


def test_it_finds_a_case_that_was_not_recorded(before, after):
    change_json(after / "recording.json", cases={})
    assert len(differences(before, after)) == 1
    assert "not recorded" in differences(before, after)[0]


def test_it_finds_other_inputs(before, after):
    for folder, value in ((before, 1), (after, 2)):
        (folder / "inputs").mkdir()
        (folder / "inputs/facial.nrrd").write_bytes(bytes([value]))
    assert differences(before, after)[0].startswith("inputs/facial.nrrd: ")


def test_a_difference_is_a_line_and_exit_code_1(before, after, capsys):
    (after / "demo/preview.png").write_bytes(png(8))
    (after / "demo/host.stl").unlink()
    assert compare_versions.main(["compare", str(before), str(after)]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2


# What is excused


EXCUSED = {
    "the version and the time in a report": lambda case: change_json(
        case / "report.json", version="0.2.0", software="SkullVAE 0.2.0", seconds={"total": 99.0, "more": 1}
    ),
    "the wording of texts": lambda case: change_json(
        case / "report.json", warnings=["Low quality."], passed_over=[{"ml": 1.5, "because": "Below the vault"}]
    ),
    "the order of fields": lambda case: (case / "report.json").write_text(
        json.dumps(dict(reversed(list(json.loads((case / "report.json").read_text(encoding="utf-8")).items())))),
        encoding="utf-8",
    ),
    "text in the header of an STL": replaced("implant.stl", stl(b"SPACE=LPS UNIT=mm SkullVAE 0.2.0, for research")),
    "comments of a PLY": replaced("implant.ply", ply("version 0.2.0, SPACE=LPS UNIT=mm")),
    "comments of an OBJ": replaced("implant.obj", obj("version 0.2.0, SPACE=LPS")),
    "text chunks of a PNG": replaced("preview.png", png(text="SkullVAE 0.2.0")),
    "time and date of a model": replaced(
        "model.safetensors", weights(seconds=8.0, provenance={"trained": "2026-03-04", "beta": 1.0})
    ),
    "seconds of a table": in_text("log.csv", "0.9", "1.9"),
    "seconds and wording of an answer": in_text("answers.jsonl", "Choose 1 to 5.", "Use a number from 1 to 5."),
    "the wording of a table": in_text("table.txt", "case DSC", "case Dice"),
    "the wording of an HTML report": replaced(
        "report.html", page(png(), text="Version 0.2.0, 2026-03-04").replace(b"A warning", b"Check the rim")
    ),
}


@pytest.mark.parametrize("what", EXCUSED)
def test_it_excuses(before, after, what):
    EXCUSED[what](after / "demo")
    assert differences(before, after) == []


def test_times_of_tensorboard_and_how_a_run_was_interrupted_are_excused(before, after):
    folder = after / "demo/tensorboard/vae"
    shutil.rmtree(folder)
    event_file(folder, [(1, "loss", 12.25), (1, "seconds", 0.7), (2, "loss", 9.0)], wall_time=50.0)
    event_file(folder, [(2, "loss", 11.5)], wall_time=60.0)
    assert differences(before, after) == []


def test_an_excused_field_must_be_there(before, after):
    change_json(after / "demo/report.json", software=None)
    assert differences(before, after) == []
    report = {key: value for key, value in REPORT.items() if key != "software"}
    (after / "demo/report.json").write_text(json.dumps(report), encoding="utf-8")
    assert differences(before, after) == ["demo/report.json software: missing now"]


# Tables of renames


def test_renamed_files_and_fields_are_the_same_file_and_field(before, after):
    case = after / "demo"
    (case / "host.stl").rename(case / "skull.stl")
    (case / "answers.jsonl").rename(case / "responses.jsonl")
    report = json.loads((case / "report.json").read_text(encoding="utf-8"))
    report["rejected"] = [{"ml": 1.5, "reason": "Below the vault"}]
    del report["passed_over"]
    report["files"] = ["implant.stl", "skull.stl"]
    (case / "report.json").write_text(json.dumps(report), encoding="utf-8")
    assert len(differences(before, after)) == 7
    rules = replace(
        RULES,
        renamed_files={"host.stl": "skull.stl", "answers.jsonl": "responses.jsonl"},
        renamed_fields={"passed_over": "rejected", "rejected.because": "reason"},
    )
    assert differences(before, after, rules) == []
    in_text("report.json", '"ml": 1.5', '"ml": 1.6')(case)
    assert differences(before, after, rules) == ["demo/report.json rejected.[0].ml: 1.6, before 1.5"]


def test_an_old_name_that_is_kept_beside_the_new_one_must_say_the_same(before, after):
    rules = replace(RULES, renamed_fields={"found": "defect_found"})
    change_json(after / "demo/report.json", defect_found=True)
    assert differences(before, after, rules) == []
    change_json(after / "demo/report.json", found=False)
    assert differences(before, after, rules) == ["demo/report.json defect_found (old name): was not there before"]


def test_renamed_words_new_fields_and_rewritten_pictures_are_excused_where_a_table_says_so(before, after):
    case = after / "demo"
    change_json(case / "report.json", unit="mm", options=["--roi=1,2"])
    change_json(before / "demo/report.json", options=["--box=1,2"])
    (case / "preview.png").write_bytes(png(200, place=(9, 2)))
    (case / "notes.json").write_text("{}", encoding="utf-8")
    in_text("log.csv", "vae", "VAE")(case)
    rules = replace(
        RULES,
        renamed_values={"stage": {"vae": "VAE"}},
        renamed_options={"--box": "--roi"},
        new_fields=frozenset(("unit",)),
        new_files=frozenset(("notes.json",)),
        excused_pixels={"demo/preview.png": ((0, 8, 12, 10),)},
    )
    assert len(differences(before, after)) == 6
    assert differences(before, after, rules) == []
    (case / "preview.png").write_bytes(png(200, place=(7, 2)))
    assert len(differences(before, after, rules)) == 1


def test_a_field_is_named_by_the_end_of_its_path():
    assert match(("a", "model", "sha256"), ("model.sha256",)) == "model.sha256"
    assert match(("sha256",), ("model.sha256",)) is None
    assert byte_difference(b"ab", b"abc") == "2 bytes before, 3 now, the first is byte 2"


# Recording

FAKE_INIT = "__version__ = '0.1.0'\n"
FAKE_MAIN = """
import json, os, sys
from SkullVAELib import __version__
threads = os.environ["OMP_NUM_THREADS"]
print(json.dumps({"software": "SkullVAE " + __version__, "arguments": sys.argv[1:], "threads": threads}))
sys.exit(CODE if "--version" not in sys.argv else 0)
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A version of the library that only says its version."""
    return write_checkout(tmp_path / "checkout")


def write_checkout(folder: Path, code: int = 0) -> Path:
    for name, text in {
        "SkullVAELib/__init__.py": FAKE_INIT,
        "SkullVAELib/__main__.py": FAKE_MAIN.replace("CODE", str(code)),
        "Training/train.py": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_version_runs_from_its_own_checkout_under_the_pinned_version(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert record(checkout, tmp_path / "recording", None, ["info"])
    said = json.loads((tmp_path / "recording/info/info.json").read_text(encoding="utf-8"))
    assert said == {"software": f"SkullVAE {PINNED_VERSION}", "arguments": ["info", "--json"], "threads": "1"}
    about = json.loads((tmp_path / "recording/recording.json").read_text(encoding="utf-8"))
    assert [command["code"] for command in about["cases"]["info"]["commands"]] == [0]
    assert not list(checkout.rglob("__pycache__"))


def test_two_recordings_of_one_version_are_the_same_and_a_failing_command_is_not(checkout, tmp_path, capsys):
    for name in ("first", "second"):
        assert (
            compare_versions.main(
                ["record", "--checkout", str(checkout), "--output", str(tmp_path / name), "--cases", "info"]
            )
            == 0
        )
    assert compare_versions.main(["compare", str(tmp_path / "first"), str(tmp_path / "second")]) == 0
    broken = write_checkout(tmp_path / "broken", 2)
    assert (
        compare_versions.main(
            ["record", "--checkout", str(broken), "--output", str(tmp_path / "third"), "--cases", "info"]
        )
        == 1
    )
    capsys.readouterr()
    assert compare_versions.main(["compare", str(tmp_path / "first"), str(tmp_path / "third")]) == 1
    assert "info, command info: exit code 0 before, 2 now" in capsys.readouterr().out


def test_a_commit_and_this_checkout_are_recorded_and_compared(checkout, tmp_path, capsys, monkeypatch):
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        return subprocess.run(
            ["git", "-C", checkout, *who, *arguments], check=True, capture_output=True, text=True, encoding="utf-8"
        ).stdout

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "the earlier version")
    monkeypatch.setattr(compare_versions, "ROOT", checkout)
    command = ["against", "HEAD", "--cases", "info", "--output", str(tmp_path / "versions")]
    assert compare_versions.main(command) == 0
    main = checkout / "SkullVAELib/__main__.py"
    main.write_text(
        main.read_text(encoding="utf-8").replace('"threads": threads', '"threads": threads + "2"'), encoding="utf-8"
    )
    capsys.readouterr()
    assert compare_versions.main(command) == 1
    assert capsys.readouterr().out == 'info/info.json threads: "12", before "1"\n'
    assert len(git("worktree", "list").splitlines()) == 1
    assert compare_versions.main(["against", "nonsense", *command[2:]]) == 2


def test_another_library_than_the_checkouts_is_refused(checkout, tmp_path):
    (checkout / "SkullVAELib/__init__.py").write_text(
        "__file__ = '/elsewhere/SkullVAELib/__init__.py'\n", encoding="utf-8"
    )
    with pytest.raises(RecordingError, match="was imported instead"):
        record(checkout, tmp_path / "recording", None, ["info"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--cases", "nonsense"], "There is no case 'nonsense'"),
        (["--cases", "facial"], "need real skulls"),
        (["--cases", "info", "--checkout", "{empty}"], "is no checkout"),
        (["--cases", "info", "--output", "{foreign}"], "something else than a recording"),
    ],
)
def test_what_cannot_be_recorded_is_one_line_and_exit_code_2(checkout, tmp_path, capsys, options, says):
    places = {"empty": tmp_path / "empty", "foreign": tmp_path / "foreign"}
    for place in places.values():
        place.mkdir()
    (places["foreign"] / "letter.txt").write_text("not ours", encoding="utf-8")
    usual = ["--checkout", str(checkout), "--output", str(tmp_path / "out")]
    given = [option.format(**places) for option in options]
    assert compare_versions.main(["record", *usual, *given]) == 2
    assert says in capsys.readouterr().err
    assert (places["foreign"] / "letter.txt").read_text(encoding="utf-8") == "not ours"


def test_what_is_no_recording_is_not_compared(before, tmp_path, capsys):
    assert compare_versions.main(["compare", str(before), str(tmp_path)]) == 2
    assert "is no recording" in capsys.readouterr().err


def test_a_recording_of_several_commits_or_with_other_packages_is_warned_of(before, after, capsys):
    assert compare_versions.main(["compare", str(before), str(after)]) == 0
    assert "Warning" not in capsys.readouterr().err
    cases = json.loads((after / "recording.json").read_text(encoding="utf-8"))["cases"]
    cases = {"demo": cases["demo"] | {"commit": "1111"}, "info": cases["demo"] | {"commit": "2222", "changes": True}}
    change_json(after / "recording.json", cases=cases, packages={"torch": "3"})
    compare_versions.main(["compare", str(before), str(after)])
    said = capsys.readouterr().err
    for text in ("several commits: 1111, 2222", "not committed", "torch 2 before and 3 now"):
        assert text in said
    assert compare_versions.main(["compare", str(before), str(after), "--cases", "demo"]) == 0
    assert "several commits" not in capsys.readouterr().err


def test_every_case_comes_after_those_that_it_needs():
    names = list(CASES)
    for name, case in CASES.items():
        assert all(names.index(needed) < names.index(name) for needed in case.needs)


# Inputs


def ball(size: int = 48) -> sitk.Image:
    """A hollow ball 190 mm wide with a nose: enough of a head to be cut."""
    at = (np.stack(np.mgrid[:size, :size, :size], -1) - (size - 1) / 2) * 4.0
    radius = np.linalg.norm(at, axis=-1)
    image = sitk.GetImageFromArray(((radius < 94) & (radius > 82)).astype(np.uint8))
    image.SetSpacing((4.0, 4.0, 4.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


def test_inputs_are_cut_out_of_skulls_the_same_each_time(tmp_path):
    skulls = tmp_path / "skulls"
    for name in ("complete/mgh_angel001.nii.gz", "complete/mgh_dca.nii.gz", "complete/colin27.nii.gz"):
        (skulls / name).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(ball(), str(skulls / name))
    (skulls / "defective").mkdir()
    for name in ("complete/scatterbrains05.nrrd", "defective/real_craniotomy.nrrd"):
        sitk.WriteImage(ball(), str(skulls / name))
    for name in ("first", "second"):
        make_inputs(tmp_path / name, skulls)
    files = [path for path in sorted((tmp_path / "first").rglob("*")) if path.is_file()]
    for path in files:
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()
    whole = sitk.GetArrayFromImage(ball())
    for number in range(3):
        left, piece = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"first/evaluate/truth/{part}/{number:03d}.nrrd")))
            for part in ("defective_skull", "implant")
        )
        assert piece.any()
        assert np.array_equal(left + piece, whole)
    face = sitk.ReadImage(str(tmp_path / "first/facial.nrrd"))
    gone = np.argwhere((sitk.GetArrayFromImage(face) == 0) & (whole > 0))[:, ::-1]
    places = np.array([face.TransformContinuousIndexToPhysicalPoint(voxel.astype(float)) for voxel in gone])
    assert len(places)
    assert (places[:, 0] > places[:, 0].mean() - 60).all()
    assert places[:, 0].min() > face.TransformContinuousIndexToPhysicalPoint((23.5, 23.5, 23.5))[0]  # the left side
    assert places[:, 1].max() < face.TransformContinuousIndexToPhysicalPoint((23.5, 23.5, 23.5))[1]  # the front
