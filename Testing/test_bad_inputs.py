"""Bad input: every kind gets its one sentence, nothing half-written, and nothing that was there is changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from bad_inputs import ALL, PAGE, Skull, said_to, sentence

from SkullVAELib.core.exit_codes import BAD_INPUT, DONE
from SkullVAELib.report.result_names import RESULT_FILES


@pytest.fixture(scope="module")
def skull() -> Skull:
    return Skull.golden()


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder and its digest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


ALSO = {"mirrored": "a name that is not ASCII"}
"""Two inputs of which one completion shows both: the file of the first has the name of the second."""


def alike(text: str) -> str:
    """What is the same on every machine: numbers differ in their last digit."""
    return "".join(letter for letter in text if not letter.isdigit()).strip()


def warnings_in(text: str) -> dict[str, str]:
    """The warnings of a run, or of a row of the page: the last sentence, which is the remedy, by the first four words.

    The step at the rim, which nearly all have, may be measured or not.
    """
    parts = [part.strip(" |.") for part in alike(text).split("Warning: ")[1:]]
    remedies = {" ".join(part.split()[:4]): part.split(". ")[-1] for part in parts}
    return {kind: remedy for kind, remedy in remedies.items() if "tep at the" not in kind}


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in ALSO.values()])
def test_bad_input_gets_its_sentence(kind, skull, tmp_path, monkeypatch):
    monkeypatch.delenv("SKULLVAE_DEBUG", raising=False)
    bad, before = ALL[kind], {}

    def make(folder: Path, given: Skull):
        made = bad.make(folder, given)
        if kind in ALSO:
            named = ALL[ALSO[kind]].make(folder, given)
            made = made.replace(named)
        before.update(contents(folder))
        return made

    code, said = said_to(make, skull, tmp_path)
    assert code == bad.code
    assert bad.said in said
    assert "Traceback" not in said
    after = contents(tmp_path)
    assert {name: after.get(name) for name in before} == before
    written = {Path(name).name for name in set(after) - set(before)}
    if code == BAD_INPUT:
        assert len(said.splitlines()) == 1
        assert said.count(". ") >= 1  # a cause and a remedy
        assert not written
    else:
        assert written >= set(RESULT_FILES) - (set() if code == DONE else {"implant.stl"})
    # The page tells the same.
    words, page = sentence(said, tmp_path), PAGE.read_text(encoding="utf-8")
    for name in filter(None, (kind, ALSO.get(kind))):
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        if code == DONE:
            assert bad.said in row
            told, listed = warnings_in(words), warnings_in(row)
            assert told.keys() <= {kind for line in page.splitlines() for kind in warnings_in(line)}
            # Processors round differently, so that a figure may be on either side of its limit.
            shared = told.keys() & listed.keys()
            assert 2 * len(shared) >= len(told.keys() | listed.keys())
            assert {kind: told[kind] for kind in shared} == {kind: listed[kind] for kind in shared}
        else:
            assert alike(words) in alike(row)
