"""Small valid files of every kind that is read from outside, and ways to damage them that know their format."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

VOLUMES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha")
MODELS = ".safetensors"

SHAPE = (6, 5, 4)

Mutate = Callable[[bytes], bytes]
"""A mutation that knows nothing of the format, such as the fuzzer's own."""

NUMBERS = (
    b"0", b"1", b"-1", b"2", b"3", b"4", b"7", b"255", b"65536", b"1000000", b"2147483647", b"2147483648",
    b"-2147483648",
    b"4294967295", b"4294967296", b"9223372036854775807", b"18446744073709551616", b"99999999999999999999999", b"0.5",
    b"1e-30", b"1e30", b"1e308", b"1e999", b"nan", b"inf", b"-inf", b"-0.0", b"none", b"", b"0x10", b"1,5",
)  # fmt: skip

FILE_NAMES = (
    b"data.raw", b"data.raw.gz", b"short.raw", b"empty.raw", b"missing.raw", b"fifo", b"zero", b"folder", b"loop",
    b"folder/data.raw", b"./data.raw", b"../data.raw", b"/dev/zero", b"/dev/stdin", b"/etc/passwd", b"/proc/self/mem",
    b"LIST", b"LIST 2\ndata.raw\ndata.raw", b"LIST\nfifo\n/dev/zero", b"%02d.raw 1 4 1", b"%d.raw 1 2000000000 1",
    b"data%s.raw 1 4 1", b"%n%n%n%n 1 4 1 2", b"%999999999d.raw 1 2 1", b"LOCAL", b"data.raw\x00.png", b"a" * 300,
    b"..", b".",
    b"C:\\data.raw", b"~/data.raw", b"-", b"http://localhost/x", b"data.raw 1 2 3", b" ",
)  # fmt: skip

_NRRD_FIELDS = {
    b"type": (b"short", b"uchar", b"double", b"float", b"block", b"int64", b"unsigned long long", b"uint", b"none"),
    b"dimension": NUMBERS,
    b"space": (b"left-posterior-superior", b"RAS", b"scanner-xyz", b"3D-right-handed", b"LPST", b"none"),
    b"space dimension": NUMBERS,
    b"space units": (b'"mm" "mm" "mm"', b'"mm"', b'"' + b"m" * 5000 + b'"', b'"m" "m" "m"'),
    b"sizes": (b"6 5 4", b"6 5 4 1", b"3 6 5 4", b"6 5", b"100000 100000 100000", b"1290 1290 1290", b"6 5 0"),
    b"space directions": (
        b"(1,0,0) (0,1,0) (0,0,1)", b"(1,0,0) (1,0,0) (0,0,1)", b"none (1,0,0) (0,1,0) (0,0,1)", b"(1,0) (0,1)",
        b"(nan,0,0) (0,1,0) (0,0,1)", b"(1e200,0,0) (0,1e200,0) (0,0,1e200)", b"none none none",
        b"(0,0,0) (0,1,0) (0,0,1)",
        b"(1e-200,0,0) (0,1,0) (0,0,1)", b"(0,0,2) (0,3,0) (4,0,0)", b"(-1,0,0) (0,-1,0) (0,0,1)",
    ),
    b"space origin": (b"(0,0,0)", b"(nan,0,0)", b"(1e308,1e308,1e308)", b"(1,2)", b"none"),
    b"kinds": (
        b"domain domain domain", b"vector domain domain domain", b"domain domain domain list",
        b"3-color space space space",
        b"complex domain domain domain", b"3D-matrix domain domain domain", b"none none none",
        b"RGBA-color domain domain",
        b"3D-symmetric-matrix domain domain domain", b"quaternion domain domain domain", b"stub domain domain domain",
    ),
    b"spacings": (b"1 1 1", b"nan nan nan", b"1 2 -3", b"0 0 0", b"1e300 1 1"),
    b"thicknesses": NUMBERS,
    b"centerings": (b"cell cell cell", b"node node none", b"cell"),
    b"axis mins": (b"0 0 0", b"nan 0 0"),
    b"axis maxs": (b"6 5 4", b"0 0 0", b"1e300 1 1"),
    b"labels": (b'"x" "y" "z"', b'"x"', b'"' + b"x" * 70000 + b'"'),
    b"units": (b'"mm" "mm" "mm"', b'"mm'),
    b"encoding": (b"raw", b"gzip", b"gz", b"bzip2", b"hex", b"ascii", b"text", b"txt", b"zrl", b"none"),
    b"endian": (b"little", b"big", b"none"),
    b"data file": FILE_NAMES,
    b"datafile": FILE_NAMES,
    b"line skip": NUMBERS,
    b"byte skip": NUMBERS,
    b"block size": NUMBERS,
    b"measurement frame": (b"(1,0,0) (0,1,0) (0,0,1)", b"(nan,0,0) (0,1,0) (0,0,1)"),
    b"content": (b"a skull", b"%n%s%n", b"x" * 70000),
    b"number": NUMBERS,
    b"min": NUMBERS,
    b"max": NUMBERS,
    b"old min": NUMBERS,
    b"sample units": (b"HU",),
}  # fmt: skip

_META_FIELDS = {
    b"ObjectType": (b"Image", b"Mesh", b"Tube", b"Scene", b"Blob", b"Transform", b"Array", b"x" * 5000),
    b"ObjectSubType": (b"HImage", b"x" * 5000),
    b"NDims": NUMBERS,
    b"BinaryData": (b"True", b"False", b"maybe"),
    b"BinaryDataByteOrderMSB": (b"True", b"False"),
    b"ElementByteOrderMSB": (b"True", b"False"),
    b"CompressedData": (b"True", b"False"),
    b"CompressedDataSize": NUMBERS,
    b"CompressionLevel": NUMBERS,
    b"TransformMatrix": (
        b"1 0 0 0 1 0 0 0 1", b"1 0 0 1 0 0 0 0 1", b"nan 0 0 0 1 0 0 0 1", b"0 0 0 0 0 0 0 0 0", b"1 0 0 0 1",
        b"1 " * 2000, b"2 0 0 0 2 0 0 0 2", b"1e300 0 0 0 1 0 0 0 1", b"0 0 1 0 1 0 1 0 0",
    ),
    b"Rotation": (b"1 0 0 0 1 0 0 0 1", b"1 " * 2000),
    b"Offset": (b"0 0 0", b"nan 0 0", b"1e308 0 0", b"0 " * 3000),
    b"Position": (b"1 2 3",),
    b"Origin": (b"1 2 3",),
    b"CenterOfRotation": (b"0 0 0", b"0"),
    b"AnatomicalOrientation": (b"RAI", b"LPS", b"???", b"R" * 500),
    b"DistanceUnits": (b"mm", b"um", b"m", b"?"),
    b"ElementSpacing": (b"1 1 1", b"nan 1 1", b"0 1 1", b"-1 1 1", b"1e300 1e300 1e300", b"1", b"1 " * 3000),
    b"ElementSize": (b"1 1 1", b"-1 -1 -1", b"0 0 0"),
    b"DimSize": (b"6 5 4", b"6 5 4 1", b"6 5", b"100000 100000 100000", b"1290 1290 1290", b"-6 5 4", b"6 " * 3000),
    b"HeaderSize": NUMBERS,
    b"HeaderSizePerSlice": NUMBERS,
    b"Modality": (b"MET_MOD_CT", b"MET_MOD_X"),
    b"SequenceID": (b"1 2 3 4",),
    b"ElementMin": NUMBERS,
    b"ElementMax": NUMBERS,
    b"ElementNumberOfChannels": NUMBERS,
    b"ElementNBits": NUMBERS,
    b"ElementToIntensityFunctionSlope": NUMBERS,
    b"ElementToIntensityFunctionOffset": NUMBERS,
    b"ElementType": (
        b"MET_SHORT", b"MET_UCHAR", b"MET_DOUBLE", b"MET_LONG_LONG", b"MET_LONG", b"MET_INT", b"MET_SHORT_ARRAY",
        b"MET_STRING", b"MET_NONE",
        b"MET_OTHER", b"MET_FLOAT_MATRIX", b"MET_ASCII_CHAR", b"x",
    ),
    b"Name": (b"skull", b"%n%s", b"x" * 70000),
    b"Comment": (b"x" * 70000,),
    b"Color": (b"1 1 1 1", b"1 " * 2000),
    b"ElementDataFile": FILE_NAMES,
}  # fmt: skip

# Offset, struct format and name of the NIfTI-1 fields that decide what is read and where it lies.
_NIFTI_FIELDS = (
    (0, "i"), (38, "c"), (39, "B"), (40, "h"), (42, "h"), (44, "h"), (46, "h"), (48, "h"), (50, "h"), (52, "h"), (54,
    "h"),
    (56, "f"), (68, "h"), (70, "h"), (72, "h"), (74, "h"), (76, "f"), (80, "f"), (84, "f"), (88, "f"), (92, "f"),
    (108, "f"),
    (112, "f"), (116, "f"), (120, "h"), (122, "c"), (123, "B"), (124, "f"), (252, "h"), (254, "h"), (256, "f"), (260,
    "f"),
    (264, "f"), (268, "f"), (272, "f"), (276, "f"), (280, "f"), (284, "f"), (288, "f"), (292, "f"), (296, "f"), (300,
    "f"),
    (312, "f"), (316, "f"), (320, "f"), (344, "4s"), (348, "i"), (352, "i"), (356, "i"),
)  # fmt: skip
_NIFTI_TYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304)
_WHOLE_NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, -1, 255, 32767, -32768)
_BROKEN_NUMBERS = (0.0, 1.0, -1.0, 2.5, 1e-30, 1e30, 3e38, float("nan"), float("inf"), 352.0, 348.0, -352.0, 1e9)
_MAGICS = (b"n+1\0", b"ni1\0", b"n+2\0", b"\0\0\0\0", b"n+9\0")

_JSON_VALUES = (
    0, 1, -1, 2, 3, 8, 10**6, 10**9, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), True, None, "",
    "x", "mean", "SkullVAE model 1", "SkullVAE paper model 1", [], {}, [8, 8], [8] * 5000, [2**40] * 3, ["x"] * 5000,
    [[8]], {"a": 1}, {"__class__": "os.system"}, "x" * 5000,
)  # fmt: skip


def voxels() -> np.ndarray:
    """Voxels that all differ, with a sign."""
    return (np.arange(np.prod(SHAPE), dtype=np.int16) * 37 - 900).reshape(SHAPE)


def prepare_folder(folder: Path) -> None:
    """Lay beside the input what headers may point to: whole, short and damaged data, and what must not be read."""
    data = voxels().tobytes()
    (folder / "data.raw").write_bytes(data)
    (folder / "data.raw.gz").write_bytes(gzip.compress(data))
    (folder / "short.raw").write_bytes(data[:50])
    (folder / "empty.raw").write_bytes(b"")
    for number in range(1, 5):
        (folder / f"{number:02d}.raw").write_bytes(data[: len(data) // 4])
    (folder / "folder").mkdir()
    (folder / "folder" / "data.raw").write_bytes(data)
    os.mkfifo(folder / "fifo")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "loop").symlink_to("loop")


def seeds(suffix: str) -> list[bytes]:
    """Valid files of a kind, and some that are nearly valid."""
    return {
        ".nrrd": _nrrd_seeds,
        ".nhdr": _nhdr_seeds,
        ".nii": _nifti_seeds,
        ".nii.gz": lambda: [gzip.compress(seed, mtime=0) for seed in _nifti_seeds()],
        ".mha": _meta_seeds,
        MODELS: _model_seeds,
    }[suffix]()


def mutate(suffix: str, data: bytes, draw: random.Random, blindly: Mutate) -> bytes:
    """A damaged copy: mostly one to three fields of the header, sometimes the bytes without regard to the format."""
    if draw.random() < 0.15:
        return blindly(data)
    if draw.random() < 0.08:
        return data[: draw.randrange(len(data) + 1)]
    one = {
        ".nrrd": _mutate_nrrd,
        ".nhdr": _mutate_nrrd,
        ".nii": _mutate_nifti,
        ".nii.gz": _mutate_gzip,
        ".mha": _mutate_meta,
        MODELS: _mutate_model,
    }[suffix]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = one(data, draw, blindly)
    return data


def _nrrd_seeds() -> list[bytes]:
    data = voxels().tobytes()
    head = nrrd_head(b"encoding: raw")
    return [
        head + b"\n" + data,
        nrrd_head(b"encoding: gzip") + b"\n" + gzip.compress(data, mtime=0),
        nrrd_head(b"encoding: bzip2") + b"\n" + bz2.compress(data),
        nrrd_head(b"encoding: ascii") + b"\n" + b" ".join(b"%d" % value for value in voxels().ravel()),
        nrrd_head(b"encoding: hex") + b"\n" + data.hex().encode(),
        nrrd_head(b"encoding: raw", b"byte skip: -1") + b"\n" + data,
        nrrd_head(b"encoding: raw", b"line skip: 1") + b"\nskipped\n" + data,
        nrrd_head(b"encoding: raw", b"kinds: domain domain domain", b"name:=skull") + b"\n" + data,
        nrrd_head(b"encoding: raw", b"data file: data.raw"),
        head.replace(b"sizes: 6 5 4", b"sizes: 6 5 4 1").replace(b"dimension: 3", b"dimension: 4")
        .replace(b"(0,0,1)", b"(0,0,1) none") + b"\n" + data,
        b"NRRD0001\ntype: short\ndimension: 3\nsizes: 6 5 4\nspacings: 1 1 2\nencoding: raw\nendian: little\n\n" + data,
    ]  # fmt: skip


def nrrd_head(*fields: bytes) -> bytes:
    """An NRRD header of voxels(), up to its empty line, with more fields; encoding and data follow."""
    lines = (
        b"NRRD0004", b"type: short", b"dimension: 3", b"space: left-posterior-superior", b"sizes: 6 5 4",
        b"space directions: (1,0,0) (0,1,0) (0,0,1)", b"endian: little", b"space origin: (0,0,0)", *fields, b"",
    )  # fmt: skip
    return b"\n".join(lines)


def _nhdr_seeds() -> list[bytes]:
    return [
        nrrd_head(b"encoding: raw", b"data file: data.raw"),
        nrrd_head(b"encoding: gzip", b"data file: data.raw.gz"),
        nrrd_head(b"encoding: raw", b"byte skip: -1", b"data file: data.raw"),
        nrrd_head(b"encoding: raw", b"data file: %02d.raw 1 4 1"),
        nrrd_head(b"encoding: raw", b"data file: LIST") + b"01.raw\n02.raw\n03.raw\n04.raw\n",
        nrrd_head(b"encoding: raw") + b"\n" + voxels().tobytes(),
    ]


def _nifti_seeds() -> list[bytes]:
    plain = nib.Nifti1Image(voxels(), np.diag([1.0, 2, 3, 1]))
    oblique = np.eye(4)
    oblique[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    big = nib.Nifti1Image(voxels(), oblique, nib.Nifti1Header(endianness=">"))
    floats = nib.Nifti1Image(voxels().astype(np.float32), oblique)
    other = nib.Nifti2Image(voxels(), np.eye(4))
    four = nib.Nifti1Image(voxels()[..., None], np.eye(4))
    scaled = bytearray(plain.to_bytes())
    struct.pack_into("<ff", scaled, 112, 2.0, -1024.0)
    return [*(image.to_bytes() for image in (plain, big, floats, other, four)), bytes(scaled)]


def _meta_seeds() -> list[bytes]:
    data = voxels().tobytes()
    packed = zlib.compress(data)
    return [
        meta_head() + data,
        meta_head(b"CompressedData = True", b"CompressedDataSize = %d" % len(packed)) + packed,
        meta_head(b"BinaryData = False") + b" ".join(b"%d" % value for value in voxels().ravel()),
        meta_head(file=b"data.raw"),
        meta_head(file=b"LIST") + b"01.raw\n02.raw\n03.raw\n04.raw\n",
        meta_head(file=b"%02d.raw 1 4 1"),
        meta_head().replace(b"Compressed", b"HeaderSize = -1\nCompressed") + data,
    ]


def meta_head(*fields: bytes, file: bytes = b"LOCAL") -> bytes:
    """A MetaImage header of voxels(), with fields changed or added."""
    result = {
        b"ObjectType": b"Image", b"NDims": b"3", b"BinaryData": b"True", b"BinaryDataByteOrderMSB": b"False",
        b"CompressedData": b"False", b"TransformMatrix": b"1 0 0 0 1 0 0 0 1", b"Offset": b"0 0 0",
        b"ElementSpacing": b"1 1 2", b"DimSize": b"6 5 4", b"ElementType": b"MET_SHORT",
    }  # fmt: skip
    result |= dict(field.split(b" = ", 1) for field in fields)
    result[b"ElementDataFile"] = file
    return b"".join(b"%s = %s\n" % field for field in result.items())


def _model_seeds() -> list[bytes]:
    import torch

    from SkullVAELib.vae.checkpoint import save_model, write_tensors
    from SkullVAELib.vae.networks import Architecture, SkullModel
    from SkullVAELib.vae.paper_networks import PaperArchitecture, PaperModel

    torch.manual_seed(0)
    own = SkullModel(Architecture((8, 8, 8), 20.0, 10.0, 2, (4, 4)), ("cranial", "facial"))
    paper = PaperModel(PaperArchitecture((8, 8, 8), 2, (2, 2)), ("cranial",), pairs=1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        made = []
        for model in (own, paper):
            save_model(model, path, {"trained": "2024-01-01"})
            made.append(path.read_bytes())
        write_tensors(path, {"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.uint8)}, {"step": 1})
        return [*made, path.read_bytes()]


def _mutate_nrrd(data: bytes, draw: random.Random, blindly: Mutate) -> bytes:
    head, gap, body = data.partition(b"\n\n")
    if draw.random() < 0.15:
        return head + gap + _mutate_body(body, draw, blindly)
    if draw.random() < 0.1:
        return head + gap + gzip.compress(body)
    return b"\n".join(_mutate_lines(head.split(b"\n"), b": ", _NRRD_FIELDS, draw, blindly)) + gap + body


def _mutate_meta(data: bytes, draw: random.Random, blindly: Mutate) -> bytes:
    match = re.search(rb"ElementDataFile[^\n]*\n?", data)
    end = match.end() if match else len(data)
    head, body = data[:end], data[end:]
    if draw.random() < 0.15:
        return head + _mutate_body(body, draw, blindly)
    lines = head.removesuffix(b"\n").split(b"\n")
    return b"\n".join(_mutate_lines(lines, b" = ", _META_FIELDS, draw, blindly)) + b"\n" + body


def _mutate_lines(lines: list[bytes], mark: bytes, fields: dict, draw: random.Random, blindly: Mutate) -> list[bytes]:
    """Change, add, repeat, move or drop one line of a header."""
    place = draw.randrange(len(lines))
    how = draw.random()
    if how < 0.1:
        return lines[:place] + lines[place + 1 :]
    if how < 0.15:
        return [*lines, lines[place]]
    if how < 0.2:
        other = draw.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
        return lines
    if how < 0.45:
        name = draw.choice(list(fields))
        lines.insert(max(1, place), name + mark + draw.choice(fields[name]))
        return lines
    name, found, value = lines[place].partition(mark)
    known = fields.get(name)
    if found and known and how < 0.75:
        value = draw.choice(known)
    elif how < 0.9:
        numbers = list(re.finditer(rb"[-+.\w]+", value))
        if numbers:
            one = draw.choice(numbers)
            value = value[: one.start()] + draw.choice(NUMBERS) + value[one.end() :]
    else:
        value = blindly(value)
    lines[place] = name + found + value
    return lines


def _mutate_body(body: bytes, draw: random.Random, blindly: Mutate) -> bytes:
    how = draw.random()
    if how < 0.3:
        return body[: draw.randrange(len(body) + 1)]
    if how < 0.5:
        return body + body[: draw.randrange(len(body) + 1)]
    if how < 0.6:
        return gzip.compress(bytes(draw.choice((10**4, 10**6, 2 * 10**7))))
    if how < 0.8 and body:
        place = draw.randrange(len(body))
        return body[:place] + bytes([draw.randrange(256)]) + body[place + 1 :]
    return blindly(body)


def _mutate_nifti(data: bytes, draw: random.Random, blindly: Mutate) -> bytes:
    if draw.random() < 0.1:
        return data[:352] + _mutate_body(data[352:], draw, blindly)
    raw = bytearray(data)
    offset, form = draw.choice(_NIFTI_FIELDS)
    order = draw.choice("<<<>")
    if offset + struct.calcsize(form) > len(raw):
        return blindly(data)
    if form == "f":
        struct.pack_into(order + "f", raw, offset, draw.choice(_BROKEN_NUMBERS))
    elif form == "4s":
        raw[offset : offset + 4] = draw.choice(_MAGICS)
    elif form in "cB":
        raw[offset] = draw.choice((0, 1, 2, 8, 10, 18, 255))
    elif offset == 70:
        struct.pack_into(order + "h", raw, offset, draw.choice(_NIFTI_TYPES))
    elif form == "i":
        struct.pack_into(order + "i", raw, offset, draw.choice((0, 348, 540, -1, 1, 16, 2**31 - 1, 10**6)))
    else:
        struct.pack_into(order + "h", raw, offset, draw.choice(_WHOLE_NUMBERS))
    return bytes(raw)


def _mutate_gzip(data: bytes, draw: random.Random, blindly: Mutate) -> bytes:
    how = draw.random()
    if how < 0.2:
        return _mutate_body(data, draw, blindly)
    try:
        inflated = zlib.decompressobj(31).decompress(data, 2**17)
    except zlib.error:
        return blindly(data)
    made = gzip.compress(_mutate_nifti(inflated, draw, blindly), mtime=0)
    if how < 0.3:
        raw = bytearray(made)
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        return bytes(raw)
    return made + made if how < 0.33 else made


def _mutate_model(data: bytes, draw: random.Random, blindly: Mutate) -> bytes:
    how = draw.random()
    length = int.from_bytes(data[:8], "little")
    if how < 0.05:
        value = draw.choice((0, 1, 7, len(data), 2**20, 10**8, 10**8 + 1, 2**31, 2**63, 2**64 - 1))
        return value.to_bytes(8, "little") + data[8:]
    if how < 0.08:
        return b"\x80\x04cos\nsystem\n(S'true'\ntR." + data
    try:
        head = json.loads(data[8 : 8 + length])
        metadata = head["__metadata__"]
        names = [name for name in head if name != "__metadata__"]
        if how < 0.65:
            key = draw.choice(list(metadata))
            if draw.random() < 0.1:
                metadata[key] = draw.choice(("[" * 100000, "9" * 5000, "{", "NaN", "", '"\\ud800"', "1e999"))
            else:
                value = _mutate_json(json.loads(metadata[key]), draw)
                metadata[key] = json.dumps(value)
        elif how < 0.95:
            _mutate_entry(head, draw.choice(names), draw)
        else:
            return data[: 8 + length] + _mutate_body(data[8 + length :], draw, blindly)
        made = json.dumps(head).encode()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return blindly(data)
    made += b" " * (-len(made) % 8)
    return len(made).to_bytes(8, "little") + made + data[8 + length :]


def _mutate_json(value: object, draw: random.Random) -> object:
    """The same JSON but for one part somewhere in it."""
    if draw.random() < 0.3 or not isinstance(value, dict | list) or not value:
        return draw.choice(_JSON_VALUES)
    place = draw.choice(list(value)) if isinstance(value, dict) else draw.randrange(len(value))
    how = draw.random()
    if how < 0.1:
        del value[place]
    elif how < 0.15 and isinstance(value, list):
        value.append(value[place])
    elif how < 0.15:
        value["more"] = draw.choice(_JSON_VALUES)
    else:
        value[place] = _mutate_json(value[place], draw)
    return value


def _mutate_entry(head: dict, name: str, draw: random.Random) -> None:
    """Change what the header says of one tensor."""
    entry = head[name]
    how = draw.random()
    if how < 0.3:
        entry["dtype"] = draw.choice(
            ("F16", "F32", "F64", "BF16", "I64", "I8", "U8", "BOOL", "C64", "F8_E4M3", "F8_E8M0", "F4", "U64", "X")
        )
        if draw.random() < 0.5:  # so many bytes need another shape
            begin, end = entry["data_offsets"]
            size = {"F16": 2, "BF16": 2, "F32": 4}.get(entry["dtype"], 8 if "64" in entry["dtype"] else 1)
            entry["shape"] = [(end - begin) // size]
    elif how < 0.6:
        entry["shape"] = _mutate_json(entry["shape"], draw)
    elif how < 0.8:
        entry["data_offsets"] = _mutate_json(entry["data_offsets"], draw)
    elif how < 0.9:
        del head[name]
    else:
        head["more"] = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
