"""After a completion: answering requests for other shapes and parts of it, see `skullvae complete --interactive`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from SkullVAELib.completion.options import MOST_PROPOSALS
from SkullVAELib.completion.proposals import ProposalSampler
from SkullVAELib.completion.result import Completion
from SkullVAELib.core.atomic_output import publish_files
from SkullVAELib.core.errors import SkullVAEError
from SkullVAELib.core.files import as_json_text
from SkullVAELib.implant.options import MESH_FORMATS, ImplantOptions
from SkullVAELib.io.images import write_volume
from SkullVAELib.report.result_files import RunResult
from SkullVAELib.session.cleanup import RESPONSES
from SkullVAELib.session.protocol import Request, Requests

_PART_FILES = (
    *(f"implant_{number}.{kind}" for kind in MESH_FORMATS for number in ("[1-9]", "[1-9][0-9]")),
    *(f"implant.{kind}" for kind in reversed(MESH_FORMATS)),
)

# What of the report an answer tells again, after another shape and after another part.
_OF_SHAPE = ("gamma", "proposal", "implant", "warnings")
_OF_PART = (*_OF_SHAPE, "part", "mesh")

_NUMBERS, _TEXTS = ("clearance", "under_contour", "smooth", "split"), ("thickness", "holes")


def serve(outcome: RunResult, requests: Requests, folder: Path, stream: TextIO) -> None:
    """Answer requests on a stream until no more will come; folder: where the run's results are.

    Files come into answers/NUMBER in that folder, whole. A request that cannot be answered is told so, and changes
    nothing.
    """
    session = InteractiveSession(
        outcome, folder, lambda line: print(as_json_text(line, None), end="", file=stream, flush=True)
    )
    while (request := requests.take()) is not None:
        session.answer(request, lambda: requests.waits("gamma", "proposal"))


class InteractiveSession:
    """The current shape and part of a completion, and how they are changed by requests.

    say: takes each answer as a dict.
    """

    def __init__(self, outcome: RunResult, folder: Path, say: Callable[[dict], None]):
        self._first, self._folder, self._say = outcome.completion, folder, say
        if outcome.completion.patient is None:
            raise ValueError("a session is of a completion that found a defect")
        self._patient = outcome.completion.patient
        self._own_gamma = self._patient.prior.gamma_or_own(self._patient.options.gamma)
        self._draws = ProposalSampler(self._patient)
        told = {"proposal": 1, "gamma": self._own_gamma}
        self._outcome = replace(outcome, report=outcome.report | told)
        self._answers = {
            "gamma": self._answer_gamma,
            "proposal": self._answer_proposal,
            "part": self._answer_part,
            "host": self._answer_host,
            "report": self._answer_report,
        }

    def answer(self, request: Request, shape_waits: Callable[[], bool] = lambda: False) -> None:
        """Answer one request; shape_waits: whether a request for another shape waits, so that a mesh of this one would
        be of no use."""
        from SkullVAELib.core.errors import explain

        if request.superseded:
            self._say({"answer": request.number, "superseded": True})
            return
        start = time.perf_counter()
        try:
            if request.error is not None:
                raise request.error
            for told in self._answers[request.kind](request, shape_waits):
                self._say({"answer": request.number, **told, "seconds": round(time.perf_counter() - start, 3)})
        except BrokenPipeError:  # nobody listens any more
            raise
        except Exception as error:
            self._say({"answer": request.number, "error": str(explain(error))})

    def _answer_gamma(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        if self._patient.prior.kind == "mean" and request.value:
            raise SkullVAEError("The prior 'mean' has one shape only", "Start again with another --prior")
        return self._other_shape(request, self._outcome.report["proposal"], float(request.value), shape_waits)

    def _answer_proposal(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        if not 1 <= request.value <= MOST_PROPOSALS:
            raise SkullVAEError(f"There is no proposal {request.value}", f"Choose 1 to {MOST_PROPOSALS}")
        return self._other_shape(request, request.value, self._own_gamma, shape_waits)

    def _other_shape(
        self, request: Request, proposal: int, gamma: float, shape_waits: Callable[[], bool]
    ) -> Iterator[dict]:
        """The voxels as soon as they are there, the mesh after them."""
        completion = self._shape(proposal, gamma)
        if not completion.found:
            raise SkullVAEError("Nothing is left of the implant with this shape", "Choose another gamma or proposal")
        result = self._outcome.report
        told = {
            "proposal": proposal,
            "gamma": gamma,
            "implant": completion.report["implant"],
            "warnings": list(completion.report["warnings"]),
            "parameters": result["parameters"] | {"gamma": gamma},
        }
        outcome = replace(self._outcome, completion=completion, printable_implant=None, report=result | told)
        yield self._published(
            request, ["implant.nrrd"], lambda staging: write_volume(completion.implant, staging / "implant.nrrd")
        ) | {"report": _some(outcome.report, _OF_SHAPE), "more": True}
        self._outcome = outcome
        if shape_waits():
            yield {"files": [], "superseded": True, "more": False}
            return
        yield self._with_part(request, self._outcome.options) | {"more": False}

    def _answer_part(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        yield self._with_part(request, self._part_options(request.value))

    def _answer_host(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        yield self._published(request, ["skull.stl"], self._outcome.write_skull) | {"report": {}}

    def _answer_report(self, request: Request, shape_waits: Callable[[], bool]) -> Iterator[dict]:
        if self._outcome.printable_implant is None:
            self._outcome = self._outcome.with_implant()

        def write(staging: Path) -> None:
            self._outcome.write_preview(staging)
            self._outcome.write_report(staging, staging / "preview.png")
            (staging / "preview.png").unlink()

        yield self._published(request, ["report.html"], write) | {"report": {}}

    def _shape(self, proposal: int, gamma: float) -> Completion:
        """The completion with a shape; the run's own is kept, so that it comes back at once and unchanged."""
        if (proposal, gamma) == (1, self._own_gamma):
            return self._first
        return self._draws.completion(proposal, gamma)

    def _part_options(self, wishes: dict) -> ImplantOptions:
        """What a request says of the part; what it leaves out is as without the command line's option."""
        for name, value in wishes.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if name not in (*_NUMBERS, *_TEXTS):
                raise SkullVAEError(f"A part has no '{name}'", f"Use {', '.join((*_NUMBERS, *_TEXTS))}")
            if value is not None and not (number if name in _NUMBERS else isinstance(value, str)):
                kind = "number" if name in _NUMBERS else "text"
                raise SkullVAEError(f"The part's {name} is no {kind}", "Send it as --help says, or null")
        return ImplantOptions.parse(**wishes, thickness_map="ply" in self._outcome.formats)

    def _with_part(self, request: Request, options: ImplantOptions) -> dict:
        outcome = self._outcome.with_implant(options)
        if not outcome.printable.pieces:
            raise SkullVAEError(" ".join(outcome.printable.warnings) or "Nothing is left of the part", "Ask for less")
        answer = self._published(request, _PART_FILES, outcome.write_implant)
        self._outcome = outcome
        return answer | {"report": _some(outcome.report, _OF_PART)}

    def _published(self, request: Request, names: Iterable[str], write: Callable[[Path], None]) -> dict:
        """Write files into the request's own folder, whole; names: what they may be called."""
        folder = self._folder / RESPONSES / str(request.number)
        with publish_files(folder, names) as staging:
            write(staging)
            made = [path.name for path in staging.iterdir() if path.suffix]
        return {"folder": str(folder), "files": sorted(made, key=lambda name: (name.count("_"), name))}


def _some(result: dict, names: Iterable[str]) -> dict:
    return {name: result[name] for name in names if name in result}
