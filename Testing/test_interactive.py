"""The interactive session: requests, responses, complete files, and the end of the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from SkullVAELib.cli.main import main
from SkullVAELib.completion.defects import CERTAIN, DOUBTFUL, EXCLUDED
from SkullVAELib.core.exit_codes import NO_DEFECT
from SkullVAELib.geometry.volume import Volume
from SkullVAELib.implant.implant_mesh import PrintableImplant, _voxel_piece
from SkullVAELib.implant.options import ImplantOptions
from SkullVAELib.io.images import read_volume, write_volume
from SkullVAELib.mesh.files import write_stl
from SkullVAELib.report.rating import DOUBTFUL_FROM, DOUBTFUL_TO
from SkullVAELib.report.result_files import RunResult
from SkullVAELib.session.cleanup import remove_responses
from SkullVAELib.session.protocol import Request, Requests
from SkullVAELib.session.server import InteractiveSession

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def result(completion, sample) -> RunResult:
    return RunResult.of(completion, ImplantOptions(), ("stl",), "head.nrrd", "m.safetensors").with_implant()


class Client:
    """A session and the responses that it has sent."""

    def __init__(self, result: RunResult, folder: Path):
        self.folder, self.responses = folder, []
        self.session = InteractiveSession(result, folder, self.responses.append)

    def request(self, shape_waits: bool = False, **request: object) -> list[dict]:
        """The responses to a request, each as it would be read from JSON."""
        before = len(self.responses)
        self.session.respond(Request.parse(json.dumps(request)), lambda: shape_waits)
        return json.loads(json.dumps(self.responses[before:], allow_nan=False, default=float))

    def implant(self, number: int) -> np.ndarray:
        return read_volume(self.folder / "responses" / str(number) / "implant.nrrd").array != 0


@pytest.fixture
def client(result, tmp_path) -> Client:
    return Client(result, tmp_path)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_gamma_gives_voxels_first_and_then_the_mesh(client, completion):
    voxels, mesh = client.request(request=7, gamma=2.0)
    folder = client.folder / "responses" / "7"
    assert voxels["response"] == mesh["response"] == 7
    assert Path(voxels["folder"]) == folder
    assert (voxels["files"], voxels["more"]) == (["implant.nrrd"], True)
    assert (mesh["files"], mesh["more"]) == (["implant.stl"], False)
    assert files(folder) == {"implant.nrrd", "implant.stl"}
    implant = client.implant(7)
    assert not (implant & completion.bone.array).any()
    assert (implant ^ completion.implant.array).any()
    assert voxels["report"]["gamma"] == 2.0
    assert voxels["report"]["implant"]["volume_ml"] == pytest.approx(implant.sum() * completion.bone.voxel_ml, abs=1e-3)
    assert mesh["report"]["mesh"]["triangles"] == len(trimesh.load(folder / "implant.stl").faces)
    assert trimesh.load(folder / "implant.stl").is_watertight
    assert mesh["seconds"] >= voxels["seconds"] > 0


def test_gamma_0_is_the_runs_own_result_to_the_byte(client, result, completion):
    client.request(True, request=1, gamma=1.5)
    client.request(request=2, gamma=0)
    write_volume(completion.implant, client.folder / "own.nrrd")
    write_stl(result.printable.mesh, client.folder / "own.stl")
    for kind in ("nrrd", "stl"):
        response = client.folder / "responses" / "2" / f"implant.{kind}"
        assert response.read_bytes() == (client.folder / f"own.{kind}").read_bytes()


def test_the_mesh_of_a_superseded_shape_is_not_made(client):
    voxels, end = client.request(True, request=3, gamma=0.5)
    assert voxels["files"] == ["implant.nrrd"]
    assert end["superseded"] and end["files"] == [] and end["more"] is False
    assert files(client.folder / "responses" / "3") == {"implant.nrrd"}


def test_a_proposal_becomes_the_current_shape_and_the_first_comes_back(client, completion):
    client.request(True, request=1, proposal=3)
    report = client.request(True, request=2, gamma=0.0)[0]["report"]
    assert report["proposal"] == 3
    assert np.array_equal(client.implant(1), client.implant(2))
    client.request(True, request=4, proposal=1)
    assert np.array_equal(client.implant(4), completion.implant.array)
    assert (client.implant(1) ^ client.implant(4)).any()


def test_another_printable_implant_is_made_of_the_current_shape(client):
    options = {"clearance": 0.5, "thickness": "constant:4", "under_contour": 0, "smooth": 0.5, "holes": "2,10,3"}
    (response,) = client.request(request=9, implant=options | {"split": None})
    assert response["files"] == ["implant.stl"]
    implant = response["report"]["printable_implant"]
    assert (implant["clearance_mm"], implant["thickness"], implant["thickness_mm"]) == (0.5, "constant", 4.0)
    assert implant["pieces"][0]["holes"] > 5
    assert implant["pieces"][0]["clearance_mm"]["p5"] > 0.4
    (plain,) = client.request(request=10, implant={})
    assert plain["report"]["printable_implant"]["pieces"][0]["holes"] == 0
    assert plain["report"]["mesh"]["volume_ml"] != response["report"]["mesh"]["volume_ml"]


def test_a_mould_is_made_of_the_current_implant(client, monkeypatch):
    monkeypatch.setattr("SkullVAELib.implant.mould.STEP_MM", (0.6, 0.6))  # to be fast
    (response,) = client.request(request=11, tooling={"mould": True, "mould_clearance": 0.25, "mould_wall": None})
    assert response["files"] == ["mould_a.stl", "mould_b.stl"]
    assert files(client.folder / "responses" / "11") == {"mould_a.stl", "mould_b.stl"}
    (piece,) = response["report"]["tooling"]["mould"]["pieces"]
    assert piece["cement_ml"] > piece["implant_ml"] > 1
    assert all("Mould" in text for text in response["report"]["warnings"])


def filled(report: dict) -> list[int]:
    return [entry["number"] for entry in report["candidates"] if entry["filled"]]


def middle(completion) -> list[float]:
    """The implant voxel nearest to the centre of the implant, RAS mm."""
    index = np.argwhere(completion.implant.array)
    nearest = index[np.linalg.norm(index - index.mean(0), axis=1).argmin()]
    return (completion.implant.affine @ [*nearest, 1])[:3].tolist()


def test_the_runs_own_defects_give_its_own_result_to_the_byte_and_gamma_is_kept(client, result, completion):
    client.request(True, request=1, gamma=1.5)
    client.request(request=2, defects={"filled": []})
    voxels = client.request(True, request=3, defects={"filled": filled(completion.report)})[0]
    assert voxels["report"]["gamma"] == 1.5
    assert np.array_equal(client.implant(1), client.implant(3))
    client.request(True, request=4, gamma=0)
    client.request(request=5, defects={"filled": []})
    voxels, mesh = client.request(request=2, defects={"filled": filled(completion.report)})
    assert (voxels["files"], voxels["more"], mesh["more"]) == (["implant.nrrd"], True, False)
    assert voxels["report"]["gamma"] == 0 and voxels["report"]["found"] is True
    assert filled(voxels["report"]) == filled(completion.report)
    assert voxels["report"]["checks"] is None and mesh["report"]["checks"]["rating"]
    write_stl(result.printable.mesh, client.folder / "own.stl")
    assert np.array_equal(client.implant(2), completion.implant.array)
    assert (client.folder / "responses" / "2" / "implant.stl").read_bytes() == (client.folder / "own.stl").read_bytes()


def test_without_a_defect_there_is_no_implant_until_one_is_selected(client, completion):
    (empty,) = client.request(request=1, defects={"filled": [], "at": []})
    assert empty["files"] == [] and empty["report"]["found"] is False
    assert filled(empty["report"]) == []
    assert empty["report"]["warnings"] and "implant" not in empty["report"]
    for number, kind in enumerate(({"gamma": 0.5}, {"proposal": 2}), 2):
        (refused,) = client.request(request=number, **kind)
        assert "no defect is filled" in refused["error"]
    assert client.request(request=4, report=True)[0]["files"] == ["report.html"]
    assert client.request(request=5, implant={"clearance": 0.7})[0]["files"] == []
    voxels, mesh = client.request(request=6, defects={"at": [middle(completion)]})
    assert voxels["report"]["found"] is True
    assert np.array_equal(client.implant(6), completion.implant.array)
    assert mesh["report"]["printable_implant"]["clearance_mm"] == 0.7


def outside(completion) -> tuple[np.ndarray, np.ndarray]:
    """A point on the outer surface in the middle of the implant, RAS mm, and the direction out of the skull there."""
    proposal = completion.proposal
    centre = np.linalg.inv(proposal.alignment)[:3, 3]
    direction = np.array(middle(completion)) - centre
    direction /= np.linalg.norm(direction)
    ray = centre + np.arange(40, 120, 0.1)[:, None] * direction
    inside = proposal.shape.at_voxels(proposal.alignment, ray) < 0
    return ray[np.flatnonzero(inside)[-1]], direction


def ball(volume, at: np.ndarray, radius_mm: float) -> np.ndarray:
    index = np.indices(volume.array.shape).reshape(3, -1).T
    distance = np.linalg.norm(index @ volume.affine[:3, :3].T + volume.affine[:3, 3] - at, axis=1)
    return (distance < radius_mm).reshape(volume.array.shape)


def edited(client, implant: np.ndarray, number: int, shape_waits: bool = True) -> list[dict]:
    write_volume(client.session._run.implant.with_array(implant.astype(np.uint8)), client.folder / "edited.nrrd")
    return client.request(shape_waits, request=number, edited=str(client.folder / "edited.nrrd"))


@pytest.mark.parametrize("millimetres", [3.0, -2.0, 8.0])
def test_the_outer_surface_passes_through_a_point_and_is_unchanged_far_from_it(client, completion, millimetres):
    top, direction = outside(completion)
    point = top + millimetres * direction
    (entry,) = client.request(True, request=1, points=[point.tolist()])[0]["report"]["edited"]["points"]
    assert entry["moved_mm"] == pytest.approx(millimetres, abs=0.2)
    before, after = completion.proposal, client.session._result.completion.proposal
    assert abs(after.shape.at_voxels(after.alignment, point[None])[0]) < 0.1
    # Both tables move: the thickness is kept.
    depth = np.arange(0, 12, 0.1)[:, None] * direction
    thickness = [
        (shape.shape.at_voxels(shape.alignment, outer - depth) < 0).sum() / 10
        for shape, outer in ((before, top), (after, point))
    ]
    assert thickness[0] == pytest.approx(thickness[1], abs=0.5)
    changed = np.argwhere(client.implant(1) ^ completion.implant.array)
    changed = changed @ completion.bone.affine[:3, :3].T + completion.bone.affine[:3, 3]
    assert np.linalg.norm(changed - top, axis=1).max() < 55
    voxel = np.argwhere(client.implant(1)) @ completion.bone.affine[:3, :3].T + completion.bone.affine[:3, 3]
    assert np.linalg.norm(voxel - point, axis=1).min() < 2
    client.request(True, request=2, points=[])
    assert np.array_equal(client.implant(2), completion.implant.array)


def test_a_point_that_no_implant_reaches_is_an_error_and_changes_nothing(client, completion):
    top, direction = outside(completion)
    (refused,) = client.request(request=1, points=[(top + 30 * direction).tolist()])
    assert "more than 15 mm from the outer surface" in refused["error"]
    centre = np.linalg.inv(completion.proposal.alignment)[:3, 3]
    (refused,) = client.request(request=2, points=[(2 * centre - top).tolist()])
    assert "beside the defect" in refused["error"]
    client.request(True, request=3, gamma=0)
    assert np.array_equal(client.implant(3), completion.implant.array)


def test_edited_voxels_make_the_implant_and_are_kept_in_another_shape(client, completion):
    top, direction = outside(completion)
    hill = ball(completion.bone, top + 2 * direction, 6)
    rim = completion.bone.array & ball(completion.bone, top, 100)
    over = np.zeros_like(rim)
    over[tuple(np.argwhere(rim)[0])] = True
    wanted = completion.implant.array | hill
    voxels, mesh = edited(client, wanted | over, 1, False)
    added = (hill & ~completion.implant.array & ~completion.bone.array).sum() * completion.bone.voxel_ml
    assert voxels["report"]["edited"] == {"voxels_added_ml": round(added, 3), "voxels_removed_ml": 0.0, "points": []}
    assert np.array_equal(client.implant(1), wanted & ~completion.bone.array)
    printed = trimesh.load(client.folder / "responses" / "1" / "implant.stl")
    before = client.session._run.proposal
    assert printed.is_watertight
    lps = np.array([-1, -1, 1])
    hilltop = (top + 8 * direction) * lps
    assert np.linalg.norm(printed.vertices - hilltop, axis=1).min() < 0.7
    # Away from the edit it is the surface of the completed shape.
    far = printed.vertices[np.linalg.norm(printed.vertices - top * lps, axis=1) > 15] * lps
    shape = client.session._result.completion.proposal
    assert np.allclose(
        shape.shape.at_voxels(shape.alignment, far[::50]), before.shape.at_voxels(before.alignment, far[::50])
    )
    assert mesh["report"]["checks"]["checks"]
    assert mesh["report"]["edited"] == voxels["report"]["edited"]
    (report,) = client.request(request=2, report=True)
    assert report["files"] == ["report.html"]
    assert files(client.folder / "responses" / "2") == {"report.html"}
    assert "Edited by hand" in (client.folder / "responses" / "2" / "report.html").read_text(encoding="utf-8")
    voxels = client.request(True, request=3, gamma=1.5)[0]
    assert client.implant(3)[wanted & ~completion.implant.array & ~completion.bone.array].all()
    assert voxels["report"]["edited"]["voxels_added_ml"] > 0.2
    # Points and voxels together.
    both = client.request(True, request=4, points=[(top + 8 * direction).tolist()])[0]["report"]["edited"]
    assert both["voxels_added_ml"] > 0 and len(both["points"]) == 1
    client.request(True, request=5, points=[])
    client.request(True, request=6, gamma=0)
    assert np.array_equal(client.implant(6), wanted & ~completion.bone.array)
    voxels = edited(client, completion.implant.array, 7)[0]
    assert "edited" not in voxels["report"]
    client.request(True, request=8, gamma=0)
    assert np.array_equal(client.implant(8), completion.implant.array)


def test_the_implant_of_each_defect_has_its_own_figures_and_rating(client, result, completion):
    """Two halves of one implant with a gap between them stand for the implants of two defects."""
    implant = completion.implant
    voxels = np.argwhere(implant.array)
    cut = int(np.median(voxels[:, 0]))
    halves = implant.array.copy()
    halves[cut - 1 : cut + 2] = False
    edited(client, halves, 1)
    two = client.session._result
    pieces = []
    for number, side in enumerate((np.s_[: cut - 1], np.s_[cut + 2 :]), 1):
        half = np.zeros_like(halves)
        half[side] = halves[side]
        pieces.append(_voxel_piece(implant.with_array(half), number))
    assert result.defect_figures(PrintableImplant(pieces[:1], [])) == []
    figures = two.defect_figures(PrintableImplant(pieces, []))
    assert [entry["defect"] for entry in figures] == [1, 2]
    assert [entry["candidate"] for entry in figures] == filled(completion.report) * 2
    for entry, piece in zip(figures, pieces, strict=True):
        assert entry["volume_ml"] == round(piece.mesh.volume_ml, 3)
        assert entry["rating"] in ("good", "acceptable", "poor")


def test_voxels_cut_off_are_cut_off_the_shape(client, completion):
    top, direction = outside(completion)
    hole = ball(completion.bone, top, 12)
    voxels = edited(client, completion.implant.array & ~hole, 1)[0]
    assert voxels["report"]["edited"]["voxels_removed_ml"] > 0.5
    shape = client.session._result.completion.proposal
    through = top - np.arange(-2, 8, 0.5)[:, None] * direction
    assert (shape.shape.at_voxels(shape.alignment, through) > 0).all()
    assert not (client.implant(1) & hole).any()


def test_edits_end_with_the_implant(client, completion):
    top, direction = outside(completion)
    edited(client, completion.implant.array | ball(completion.bone, top, 6), 1)
    client.request(True, request=2, points=[(top + direction).tolist()])
    (empty,) = client.request(request=3, defects={"filled": []})
    assert "edited" not in empty["report"]
    voxels = client.request(True, request=4, defects={"filled": filled(completion.report)})[0]
    assert "edited" not in voxels["report"]
    assert np.array_equal(client.implant(4), completion.implant.array)


def test_an_unusable_edit_is_an_error_and_changes_nothing(client, completion):
    (refused,) = edited(client, np.zeros_like(completion.implant.array), 1)
    assert "empty" in refused["error"]
    write_volume(Volume(completion.implant.array[:-1], completion.implant.affine), client.folder / "other.nrrd")
    (refused,) = client.request(request=2, edited=str(client.folder / "other.nrrd"))
    assert "another grid" in refused["error"]
    (refused,) = client.request(request=3, edited=str(client.folder / "missing.nrrd"))
    assert "error" in refused
    client.request(True, request=4, gamma=0)
    assert np.array_equal(client.implant(4), completion.implant.array)


@pytest.fixture
def found_nothing(completion, sample) -> RunResult:
    """The result of a run that has left the defect open."""
    report = {name: value for name, value in completion.report.items() if name != "implant"}
    run = replace(
        completion,
        completed=completion.bone,
        implant=completion.bone.with_array(np.zeros_like(completion.bone.array)),
        report=report | {"candidates": [entry | {"filled": False} for entry in report["candidates"]]},
        found=False,
        proposal=None,
    )
    return RunResult.of(run, ImplantOptions(), ("stl",), "head.nrrd", "m.safetensors")


def test_a_hole_can_be_named_after_a_run_that_found_nothing(found_nothing, completion, tmp_path):
    client = Client(found_nothing, tmp_path)
    assert "no defect is filled" in client.request(request=1, gamma=0)[0]["error"]
    voxels, _ = client.request(request=2, defects={"at": [middle(completion)]})
    assert voxels["report"]["found"] is True and filled(voxels["report"]) == filled(completion.report)
    assert np.array_equal(client.implant(2), completion.implant.array)
    assert trimesh.load(tmp_path / "responses" / "2" / "implant.stl").is_watertight
    assert client.request(True, request=3, gamma=1.0)[0]["files"] == ["implant.nrrd"]


def test_the_command_line_keeps_running_without_a_defect(found_nothing, completion, tmp_path, monkeypatch):
    waiting = [Request.parse(json.dumps({"request": 1, "defects": {"at": [middle(completion)]}})), None]

    class Stdin:
        def take(self):
            return waiting.pop(0)

        def waits(self, *kinds):
            return True

    monkeypatch.setattr(Requests, "from_stdin", classmethod(lambda cls: nullcontext(Stdin())))
    monkeypatch.setattr("SkullVAELib.cli.complete._complete_into", lambda *arguments: found_nothing)
    write_volume(completion.bone, tmp_path / "head.nrrd")
    arguments = ["complete", str(tmp_path / "head.nrrd"), "-o", str(tmp_path / "out"), "--interactive"]
    assert main(arguments) == NO_DEFECT, "the exit code is that of the run"
    assert waiting == []
    assert (tmp_path / "out" / "responses" / "1" / "implant.nrrd").is_file()


def test_a_decision_that_differs_from_the_run_is_the_users(client, completion):
    (number,) = filled(completion.report)
    own = {entry["number"]: entry["reason"] for entry in completion.report["candidates"]}
    (empty,) = client.request(request=1, defects={"filled": []})
    reasons = {entry["number"]: entry["reason"] for entry in empty["report"]["candidates"]}
    assert reasons == own | {number: EXCLUDED}
    voxels = client.request(True, request=2, defects={"filled": [number], "at": [middle(completion)]})[0]
    assert {entry["number"]: entry["reason"] for entry in voxels["report"]["candidates"]} == own


def test_doubtful_is_what_a_run_warns_of():
    assert (DOUBTFUL_FROM, DOUBTFUL_TO) == (DOUBTFUL, CERTAIN)


def test_the_kind_of_an_implant_option_is_checked(client):
    for number, (options, words) in enumerate(
        (
            ({"tabs": 4}, "'tabs' must be text"),
            ({"tab_at": "1,2,3"}, "'tab_at' must be a list"),
            ({"tab": "4"}, "unknown"),
        ),
        1,
    ):
        (refused,) = client.request(request=number, implant=options)
        assert words in refused["error"]


def test_an_unknown_candidate_is_an_error_and_changes_nothing(client, completion):
    (refused,) = client.request(request=1, defects={"filled": [99]})
    assert "no candidate defect 99" in refused["error"]
    client.request(True, request=2, gamma=0)
    assert np.array_equal(client.implant(2), completion.implant.array)


def test_the_skull_is_written_as_a_file(client):
    (skull,) = client.request(request=1, skull=True)
    assert skull["files"] == ["skull.stl"]
    assert files(client.folder / "responses" / "1") == {"skull.stl"}


BAD_REQUESTS = {
    "no JSON": ("gamma 0.5", None),
    "a list": ("[7]", None),
    "no number": ('{"gamma": 0.5}', None),
    "a number that is a path": ('{"request": "../7", "gamma": 0.5}', None),
    "a negative number": ('{"request": -1, "gamma": 0.5}', None),
    "no kind": ('{"request": 7}', 7),
    "two kinds": ('{"request": 7, "gamma": 1, "skull": true}', 7),
    "an unknown kind": ('{"request": 7, "run": "rm"}', 7),
    "a gamma that is text": ('{"request": 7, "gamma": "much"}', 7),
    "a gamma that is not a number": ('{"request": 7, "gamma": NaN}', 7),
    "a sixth proposal": ('{"request": 7, "proposal": 6}', 7),
    "half a proposal": ('{"request": 7, "proposal": 1.5}', 7),
    "an unknown option": ('{"request": 7, "implant": {"colour": "blue"}}', 7),
    "one kind under its new and its old name": ('{"request": 7, "implant": {}, "part": {}}', 7),
    "a clearance out of range": ('{"request": 7, "implant": {"clearance": 50}}', 7),
    "a clearance that is text": ('{"request": 7, "implant": {"clearance": "near"}}', 7),
    "defects that are a list": ('{"request": 7, "defects": [1]}', 7),
    "defects without a selection": ('{"request": 7, "defects": {}}', 7),
    "defects with an unknown field": ('{"request": 7, "defects": {"filled": [1], "skip": [2]}}', 7),
    "a candidate with the number 0": ('{"request": 7, "defects": {"filled": [0]}}', 7),
    "a candidate that is true": ('{"request": 7, "defects": {"filled": [true]}}', 7),
    "a point of two numbers": ('{"request": 7, "defects": {"at": [[1, 2]]}}', 7),
    "a point that is not finite": ('{"request": 7, "defects": {"at": [[1, 2, NaN]]}}', 7),
    "points that are one point": ('{"request": 7, "points": [1, 2, 3]}', 7),
    "an edited implant that is not a path": ('{"request": 7, "edited": true}', 7),
    "no additional part": ('{"request": 7, "tooling": {}}', 7),
    "an unknown additional part": ('{"request": 7, "tooling": {"hammer": true}}', 7),
    "a mould that is a number": ('{"request": 7, "tooling": {"mould": 1}}', 7),
    "a thin wall": ('{"request": 7, "tooling": {"mould": true, "mould_wall": 0.1}}', 7),
    "a gamma of 400 digits": (f'{{"request": 7, "gamma": 1{"0" * 400}}}', 7),
    "a point of 400 digits": (f'{{"request": 7, "points": [[1{"0" * 400}, 2, 3]]}}', 7),
    "a clearance of 400 digits": (f'{{"request": 7, "implant": {{"clearance": 1{"0" * 400}}}}}', 7),
    "a hole of 400 digits": (f'{{"request": 7, "implant": {{"hole_at": [[1{"0" * 400}, 2, 3]]}}}}', 7),
    "holes that are a number": ('{"request": 7, "implant": {"holes": 2}}', 7),
}


@pytest.mark.parametrize(("line", "number"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_an_invalid_request_gets_cause_and_remedy_and_changes_nothing(client, line, number):
    client.session.respond(Request.parse(line))
    (response,) = client.responses
    assert response["response"] == number
    assert set(response) == {"response", "error"}
    assert response["error"].count(". ") >= 1 and "\n" not in response["error"]
    assert not response["error"].startswith("Unexpected")
    assert not (client.folder / "responses").exists()


@pytest.mark.parametrize(("former", "kind", "value"), [("part", "implant", {"split": None}), ("host", "skull", True)])
def test_the_names_of_version_0_1_are_accepted(former, kind, value):
    request = Request.parse(json.dumps({"request": 7, former: value}))
    assert request == Request(7, kind, value)


def test_after_a_response_that_cannot_be_written_the_session_continues(client):
    (client.folder / "responses").mkdir()
    (client.folder / "responses" / "5").write_text("a file instead of a folder", encoding="utf-8")
    (response,) = client.request(request=5, gamma=1.0)
    assert "not a folder" in response["error"]
    assert client.request(True, request=6, gamma=1.0)[0]["files"] == ["implant.nrrd"]


@pytest.mark.parametrize("folder", ["responses", "answers"], ids=["now", "version 0.1"])
def test_only_the_responses_of_an_earlier_session_are_removed(tmp_path, folder):
    for name in ("7/implant.nrrd", "8/skull.stl", "9/notes.txt", "mine/implant.nrrd"):
        (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_text("x", encoding="utf-8")
    remove_responses(tmp_path)
    assert files(tmp_path / folder) == {"9", "mine"}
    remove_responses(tmp_path / "9")


@pytest.fixture
def pipe():
    """Both ends of a pipe, closed at the end."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end is not None:
            os.close(end)


def lines(*requests: dict) -> bytes:
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def test_of_queued_requests_only_the_newest_of_each_kind_is_processed(pipe):
    sent = [{"request": k, "gamma": k / 10} for k in range(3)] + [{"request": 3, "skull": True}]
    sent += [{"request": 4, "gamma": 1}, {"request": 5, "implant": {}}]
    os.write(pipe[1], lines(*sent) + b'{"request": 6, "skull"')
    os.close(pipe[1])
    pipe[1] = None
    requests, taken = Requests(pipe[0]), []
    while not requests._closed:  # read all before taking the first
        requests._changed.acquire()
        requests._changed.wait(0.1)
        requests._changed.release()
    while (request := requests.take()) is not None:
        taken.append(request)
    assert [request.number for request in taken] == [0, 1, 2, 3, 4, 5, None]
    assert [request.superseded for request in taken] == [True, True, True, False, False, False, False]
    assert taken[-1].error is not None


CHILD = textwrap.dedent("""
    import sys
    from SkullVAELib.cli.main import _signals_end_the_run
    from SkullVAELib.session.protocol import Requests
    with _signals_end_the_run(), Requests.from_stdin() as requests:
        print("ready", flush=True)
        while (request := requests.take()) is not None:
            print(request.number, flush=True)
    print("over", flush=True)
""")


def child(*command: str) -> subprocess.Popen:
    """The child's code as a process, or a command that starts it, once it is ready for requests."""
    started = subprocess.Popen(
        command or [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
        encoding="utf-8",
    )
    assert started.stdout.readline() == "ready\n"
    return started


def test_closing_stdin_ends_the_process_after_all_requests():
    process = child()
    output, _ = process.communicate(
        lines({"request": 1, "skull": True}, {"request": 2, "gamma": 1}).decode(), timeout=30
    )
    assert process.returncode == 0
    assert output == "1\n2\nover\n"


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_sigterm_ends_a_process_that_waits():
    process = child()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert process.stdout.read() == ""


PARENT = textwrap.dedent("""
    import subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
    print(child.stdout.readline(), end="", flush=True)
""")


@pytest.mark.skipif(os.name != "posix", reason="parents of processes")
@pytest.mark.timeout(60)
def test_the_end_of_the_parent_ends_the_process_though_stdin_stays_open():
    process = child(sys.executable, "-c", PARENT, CHILD)
    # The grandchild has this pipe open as well: reading ends when the grandchild has ended.
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 0
    assert not process.stdin.closed


def test_a_session_on_the_command_line_from_a_skull_to_its_responses(sample, model_path, tmp_path):
    write_volume(sample.bone, tmp_path / "head.nrrd")
    out = tmp_path / "out"
    for folder in ("responses", "answers"):
        (out / folder / "3").mkdir(parents=True)
        (out / folder / "3" / "implant.stl").write_text("of an earlier session", encoding="utf-8")
    arguments = ["complete", tmp_path / "head.nrrd", "-o", out, "--model", model_path, "--progress", "json"]
    sent = lines({"request": 1, "gamma": 0}, {"request": 2, "implant": {"clearance": -1}}) + b"hello\n"
    process = subprocess.run(
        [sys.executable, "-m", "SkullVAELib", *map(str, arguments), "--interactive", "--display"],
        input=sent,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    messages = [json.loads(line) for line in process.stdout.splitlines()]
    done = messages.index({"stage": "done", "fraction": 1.0})
    assert all(set(message) == {"stage", "fraction"} for message in messages[: done + 1])
    responses = messages[done + 1 :]
    assert [response["response"] for response in responses] == [1, 1, 2, None]
    assert "error" in responses[2] and "error" in responses[3]
    assert not (out / "answers").exists()
    assert files(out / "responses") == {"1"}
    assert (out / "responses" / "1" / "implant.nrrd").read_bytes() == (out / "implant.nrrd").read_bytes()
    assert (out / "responses" / "1" / "implant.stl").read_bytes() == (out / "implant.stl").read_bytes()
    shown = trimesh.load(out / "skull_display.ply")
    bone = trimesh.load(out / "skull_display.ply").vertices * [-1, -1, 1]
    where = np.argwhere(sample.bone.array) @ sample.bone.affine[:3, :3].T + sample.bone.affine[:3, 3]
    assert len(shown.faces) < 200_000
    assert np.allclose(np.ptp(bone, axis=0), np.ptp(where, axis=0), atol=3)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert {"skull_display.ply", "implant.stl"} <= set(report["files"])
