"""Claims about the repository as a public project: workflows, forms, citation, changelog, Extensions Index, size."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from SkullVAELib import NOTICE, __version__

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ACTIONS = sorted((GITHUB / "actions").glob("*/action.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MIB = 1 << 20


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def workflow(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict]:
    """All steps of a workflow or of a composite action."""
    content = workflow(path)
    groups = [content["runs"]] if "runs" in content else content["jobs"].values()
    return [step for group in groups for step in group.get("steps", ())]


def tool(name: str) -> str:
    """Path of a program, preferably that of this Python's environment."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, f"{name} is not installed: make venv"
    return found


def run(*command: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options, encoding="utf-8"
    )


# --------------------------------------------------------------------------------------------------------------------
# Workflows


def actionlint(*files: Path) -> subprocess.CompletedProcess[str]:
    # Programs that it would call where they are there: what is found must not depend on the machine.
    return run(tool("actionlint"), "-no-color", "-shellcheck=", "-pyflakes=", *files)


def test_workflows_pass_actionlint():
    assert WORKFLOWS
    checked = actionlint(*WORKFLOWS)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_actionlint_finds_a_misspelt_matrix_entry(tmp_path):
    path = tmp_path / "wrong.yml"
    wrong = text(".github/workflows/tests.yml").replace("matrix.python }}", "matrix.pyhton }}")
    path.write_text(wrong, encoding="utf-8")
    assert 'property "pyhton" is not defined' in actionlint(path).stdout


SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "github-actions": ACTIONS,
    "dependabot": [GITHUB / "dependabot.yml"],
    "github-issue-forms": FORMS,
    "github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "citation-file-format": [ROOT / "CITATION.cff"],
}


def check_schema(schema: str, files: list[Path]) -> subprocess.CompletedProcess[str]:
    return run(tool("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *files)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_follow_their_schema(schema):
    assert SCHEMAS[schema]
    checked = check_schema(schema, SCHEMAS[schema])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("schema", "name", "old", "new"),
    [
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml", "type: dropdown", "type: menu"),
        ("citation-file-format", "CITATION.cff", "type: article", "type: manuscript of an article"),
    ],
)
def test_the_schemas_find_a_wrong_value(schema, name, old, new, tmp_path):
    path = tmp_path / Path(name).name
    assert old in text(name)
    path.write_text(text(name).replace(old, new), encoding="utf-8")
    assert check_schema(schema, [path]).returncode == 1


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.stem)
def test_every_action_is_this_repository_s_or_pinned_to_a_commit_with_its_version(path):
    for line in path.read_text(encoding="utf-8").splitlines():
        if used := re.search(r"\buses: (.+)", line):
            assert re.fullmatch(r"\./[\w./-]+|[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used.group(1)), line


# Job -> what it may write; no other job may write anything.
WRITES = {
    ("docs", "publish"): {"pages", "id-token"},
    ("release", "publish"): {"id-token"},
    ("release", "announce"): {"contents"},
}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_get_the_least_permissions(path):
    content = workflow(path)
    assert content["permissions"] in ({}, {"contents": "read"})
    for name, job in content["jobs"].items():
        permissions = job.get("permissions", {})
        written = {scope for scope, access in permissions.items() if access != "read"}
        assert written == WRITES.get((path.stem, name), set()), name
        assert "uses" in job or "timeout-minutes" in job, name
    for step in steps(path):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    # With it, code of a stranger's pull request would run with the repository's rights.
    assert "pull_request_target" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS, GITHUB / "dependabot.yml"], ids=lambda path: path.stem)
def test_workflows_name_no_host_and_no_package_index(path):
    content = path.read_text(encoding="utf-8")
    assert "://" not in content
    assert not re.search(r"--(extra-)?index|--find-links|-f \S|\bPIP_|\b[\w-]+\.(com|dev|io|net|org)\b", content)


def test_the_tests_run_on_every_system_and_python_that_the_package_claims():
    matrix = workflow(GITHUB / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert {system.split("-")[0] for system in matrix["system"]} == {"ubuntu", "macos", "windows"}
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert matrix["python"] == claimed
    assert PROJECT["requires-python"] == f">={claimed[0]}"


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, as they are on Windows without make."""
    lines = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", text("Makefile"), re.MULTILINE).group(1).splitlines()
    commands = (line.strip().lstrip("@").replace("$(bin)", ".venv/Scripts") for line in lines)
    return [re.sub(r" ?\$\((ARGS|PIP_ARGS)\)", "", command) for command in commands]


def test_windows_runs_what_make_runs_elsewhere():
    lint_and_test = next(step for step in steps(GITHUB / "workflows" / "tests.yml") if "(Windows)" in step["name"])
    commands = lint_and_test["run"].splitlines()
    assert [command for command in recipe("lint") + recipe("test") if command not in commands] == []
    install = next(step for step in steps(ACTIONS[0]) if "(Windows)" in step["name"])
    for command in recipe("$(stamp)"):
        if "pip install" in command:
            assert command in install["run"].splitlines()


def test_every_make_target_that_a_workflow_calls_exists():
    called = {
        target for path in [*WORKFLOWS, *ACTIONS] for step in steps(path) for target in _made(step.get("run", ""))
    }
    assert {"venv", "lint", "test", "docs"} <= called
    assert called <= set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))


def _made(script: str) -> list[str]:
    return re.findall(r"^\s*make ([a-z-]+)", script, re.MULTILINE)


def test_a_release_waits_for_the_check_of_its_tag_and_for_every_test():
    jobs = workflow(GITHUB / "workflows" / "release.yml")["jobs"]
    assert set(jobs["publish"]["needs"]) == {"tests", "build"}
    assert jobs["tests"]["needs"] == jobs["build"]["needs"] == "check"
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert "check_release.py" in jobs["check"]["steps"][-1]["run"]
    assert "password" not in text(".github/workflows/release.yml").split("jobs:")[1], "trusted publishing needs none"


# --------------------------------------------------------------------------------------------------------------------
# Version, changelog, citation


@pytest.fixture(scope="module")
def check_release():
    spec = importlib.util.spec_from_file_location("check_release", GITHUB / "scripts" / "check_release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path) -> Path:
    """The files that state a version, all of them 1.2.3."""
    (tmp_path / "SkullVAELib" / "core").mkdir(parents=True)
    (tmp_path / "SkullVAELib" / "core" / "version.py").write_text('__version__ = "1.2.3"\n', encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text("version: 1.2.3\ndate-released: 2026-11-29\n", encoding="utf-8")
    changelog = "# Changelog\n\n## [1.2.3] - 2026-11-29\n\n### Added\n\n- This.\n\n## [1.2.2] - 2026-11-28\n\n- That.\n"
    (tmp_path / "CHANGELOG.md").write_text(changelog, encoding="utf-8")
    return tmp_path


def test_a_tag_that_all_files_agree_with_may_be_released(check_release, tree):
    assert check_release.problems("v1.2.3", tree) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        (
            "SkullVAELib/core/version.py",
            "1.2.3",
            "1.2.4",
            "SkullVAELib/core/version.py states version 1.2.4, the tag 1.2.3.",
        ),
        ("CITATION.cff", "version: 1.2.3", "version: 1.2", "CITATION.cff states version 1.2, the tag 1.2.3."),
        ("CITATION.cff", "-29", "-28", "CITATION.cff states the date 2026-11-28, CHANGELOG.md 2026-11-29."),
        ("CHANGELOG.md", "[1.2.3] - 2026-11-29", "[1.2.3] - Unreleased", "CHANGELOG.md has no section"),
        ("CHANGELOG.md", "[1.2.3]", "[1.2.4]", "CHANGELOG.md has no section"),
        ("CHANGELOG.md", "\n### Added\n\n- This.\n", "", "CHANGELOG.md lists no change of version 1.2.3."),
    ],
)
def test_a_tag_that_one_file_disagrees_with_is_not_released(check_release, tree, name, old, new, problem):
    path = tree / name
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    found = check_release.problems("v1.2.3", tree)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_a_tag_that_is_no_version_is_not_released(check_release, tree):
    for tag in ("1.2.3", "v1.2", "v1.2.3rc1", "main"):
        assert check_release.problems(tag, tree) == [f"'{tag}' is not a tag such as v1.2.3."]


def test_the_notes_of_a_release_are_its_section_of_the_changelog(check_release, tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check_release, "ROOT", tree)
    assert check_release.main(["v1.2.3", "--notes", str(tmp_path / "notes.md")]) == 0
    assert (tmp_path / "notes.md").read_text(encoding="utf-8") == "### Added\n\n- This.\n"
    assert check_release.main(["v1.2.4"]) == 1
    assert "the tag 1.2.4" in capsys.readouterr().err


def test_the_changelog_follows_keep_a_changelog_and_has_this_version(check_release):
    changelog = text("CHANGELOG.md")
    versions = check_release.changes(changelog)
    assert __version__ in versions
    released = [version for version in versions if version != "Unreleased"]
    assert released == sorted(released, key=lambda version: [int(part) for part in version.split(".")], reverse=True)
    ours = {"Renamed report fields, files and options", "Moved modules"}
    for version, (date, section) in versions.items():
        assert version == "Unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", date)
        kinds = set(re.findall(r"^### (.+)$", section, re.MULTILINE))
        assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"} | ours
        assert kinds
        assert re.search(rf"^\[{re.escape(version)}\]: https://", changelog, re.MULTILINE)


def test_the_citation_names_the_newest_version_and_the_method_s_article(check_release):
    citation = yaml.safe_load(text("CITATION.cff"))
    version, (date, _) = next(item for item in check_release.changes(text("CHANGELOG.md")).items() if item[1][0])
    assert (citation["version"], str(citation["date-released"])) == (version, date)
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["repository-code"] == PROJECT["urls"]["Homepage"]
    (article,) = citation["references"]
    assert "arxiv.org/abs/2209.14783" in article["url"]
    assert [author["family-names"] for author in article["authors"]] == [
        "Li", "Fragemann", "Ahmadi", "Kleesiek", "Egger",
    ]  # fmt: skip


# --------------------------------------------------------------------------------------------------------------------
# Documents for contributors


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_to_files_lead_somewhere(name):
    content = text(name)
    titles = re.findall(r"^#+ (.+)$", content, re.MULTILINE)
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", content):
        file, _, anchor = target.partition("#")
        assert (ROOT / file).exists(), target
        assert file or anchor in headings, target


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_no_report_is_sent_before_its_author_has_thought_of_privacy(path):
    entries = workflow(path)["body"]
    (privacy,) = (entry for entry in entries if entry.get("id") == "privacy")
    (promise,) = (each for each in privacy["attributes"]["options"] if "identifies a person" in each["label"])
    assert promise["required"] is True
    if path.stem != "feature":
        assert "Never attach data from which a person can be identified." in entries[0]["attributes"]["value"]


def test_contributors_see_the_layers_that_lint_enforces():
    lint = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]
    layers = [re.split(r" [|:] ", layer) for contract in lint["contracts"] for layer in contract.get("layers", ())]
    table = text("CONTRIBUTING.md").split("| package | contents |\n|---|---|\n")[1].split("\n\n")[0]
    shown = [re.findall(r"`(\w+)`", row.split(" | ")[0]) for row in table.splitlines()]
    assert [set(row) for row in reversed(shown)] == [set(layer) for layer in layers]


def test_the_tests_that_the_security_policy_names_exist():
    claims = re.findall(r"\| `pytest ([^`]+)` \|$", text("SECURITY.md"), re.MULTILINE)
    assert len(claims) > 5
    for claim in claims:
        paths, _, expression = claim.partition(" -k ")
        files = [file for name in paths.split() for file in _test_files(ROOT / name)]
        source = "\n".join(file.read_text(encoding="utf-8") for file in files)
        names = re.findall(r"^def (test_\w+)", source, re.MULTILINE)
        for word in re.split(r" or ", expression.strip('"')):
            assert any(word in name for name in names), f"no test for '{word}' of: {claim}"


def _test_files(path: Path) -> list[Path]:
    assert path.exists(), path
    return [path] if path.is_file() else sorted(path.glob("test_*.py"))


# --------------------------------------------------------------------------------------------------------------------
# Slicer's Extensions Index: its pull-request template and its scripts/check_description_files.py of August 2026

INDEX_ENTRY = ROOT / "Docs" / "SkullVAE.json"
# Of slicer-extension-catalog-entry-schema-v1.0.2.json: key -> type of its value.
INDEX_KEYS = {
    "$schema": str, "category": str, "scm_url": str, "scm_revision": str, "scm_type": str, "build_dependencies": list,
    "dicom_support_rule": str, "build_subdirectory": str, "enabled": bool, "tier": int,
}  # fmt: skip
# Of the categories that the check accepts, those that fit. "Surgery" is not one of them.
INDEX_CATEGORIES = {"Planning", "Segmentation", "Printing"}


def cmake(name: str) -> str:
    # As the index reads it: one line.
    return re.search(rf'^set\({name} "([^"\n]+)"\)$', text("CMakeLists.txt"), re.MULTILINE).group(1)


def test_the_index_accepts_the_entry():
    entry = json.loads(INDEX_ENTRY.read_text(encoding="utf-8"))
    assert {"$schema", "category", "scm_url"} <= set(entry) <= set(INDEX_KEYS)
    assert all(isinstance(value, INDEX_KEYS[key]) for key, value in entry.items())
    assert entry["$schema"].endswith("/slicer-extension-catalog-entry-schema-v1.0.2.json#")
    assert entry["category"] == cmake("EXTENSION_CATEGORY") == "Planning"
    assert entry["category"] in INDEX_CATEGORIES
    assert entry["scm_url"].startswith("https://")
    assert Path(entry["scm_url"]).stem == f"Slicer{INDEX_ENTRY.stem}"
    assert b"\r" not in INDEX_ENTRY.read_bytes()
    assert (ROOT / "LICENSE").is_file()


def test_extension_and_package_describe_themselves_alike():
    description = cmake("EXTENSION_DESCRIPTION")
    assert PROJECT["description"] == description
    assert description.endswith(f". {NOTICE}")
    assert description.count(". ") == 1, "the index asks for one or two sentences"
    assert PROJECT["urls"]["Homepage"] == cmake("EXTENSION_HOMEPAGE")
    assert [author["name"] for author in PROJECT["authors"]] == [cmake("EXTENSION_CONTRIBUTORS")]
    assert all(url.startswith(cmake("EXTENSION_HOMEPAGE")) for name, url in PROJECT["urls"].items() if name != "Method")
    assert cmake("EXTENSION_SCREENSHOTURLS")


def section(readme: str, words: str) -> str:
    """The section of a page whose heading has one of these words, as one line."""
    found = re.search(rf"^#+ [^\n]*(?:{words})[^\n]*\n(.*?)(?=^#|\Z)", readme, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    assert found, f"a heading with {words} is missing"
    return " ".join(found.group(1).split())


def test_homepage_has_what_the_index_asks_for():
    readme = text("README.md")
    assert readme.startswith(f"# {INDEX_ENTRY.stem}\n")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)
    modules = section(readme, "Modules")
    for module in re.findall(r"add_subdirectory\((\w+)\)", text("CMakeLists.txt")):
        assert re.search(rf"\b{module}\b[^.]+\.", modules), f"no sentence on {module}"
    cite = section(readme, "cite")
    assert "CITATION.cff" in cite
    assert "https://arxiv.org/abs/2209.14783" in cite
    assert re.search(r"\bno patents\b", readme)
    assert "Apache License 2.0" in readme


def test_homepage_lists_what_remains_after_removal():
    removal = section(text("README.md"), "Remov")
    sample = text("SkullVAE/SkullVAEModule/sampledata.py")
    models = text("SkullVAE/SkullVAEModule/advancedsection.py")
    assert '"Cranium.inv3"' in sample
    assert "Cranium.inv3" in removal
    assert '/ "SkullVAE" / "Models"' in models
    assert "SkullVAE/Models" in removal
    installed = re.search(r"^PACKAGES = \(([^)]+)\)", text("SkullVAE/SkullVAEModule/installation.py"), re.MULTILINE)
    # Slicer itself brings pillow.
    packages = set(re.findall(r'"(\w+)', installed.group(1))) - {"pillow"}
    uninstalled = re.search(r'slicer\.util\.pip_uninstall\("([^"]+)"\)', removal).group(1)
    assert set(uninstalled.split()) == packages
    assert "torch" in removal


# --------------------------------------------------------------------------------------------------------------------
# Size. The index allows a clone of 100 MiB: the files and the packed history together.

TREE_MIB, HISTORY_MIB, CLONE_MIB = 45, 75, 100
LARGE_BYTES = MIB
# From this commit on no large file may replace an earlier version of itself; two had done so before.
FIRST_COMMIT = "6058448da229ba9db517f99498b2f773ca97169c"
# The model that was trained on 27 skulls, 4.7 MB, replaced one of 15 MB.
MEANT = frozenset({"a699c2c70aa4299e7fe8c0de4b2efafbcb9a8c65"})


def git(root: Path, *arguments: str, given: str | None = None) -> str:
    done = run("git", "-C", root, *arguments, input=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout() -> Path:
    """The checkout, where it has its whole history."""
    if (
        not (ROOT / ".git").exists()
        or git(ROOT, "rev-parse", "--is-shallow-repository").strip() == "true"
        or run("git", "-C", ROOT, "merge-base", "--is-ancestor", FIRST_COMMIT, "HEAD").returncode
    ):
        pytest.skip("no complete history: not a git checkout, or a shallow clone")
    return ROOT


def tree_bytes(root: Path) -> int:
    """Size of all files that git tracks."""
    names = git(root, "ls-files", "-z").split("\0")
    return sum((root / name).lstat().st_size for name in names if name and os.path.lexists(root / name))


def history_bytes(root: Path) -> int:
    """Size on disk, packed, of every version of every file up to HEAD."""
    return int(git(root, "rev-list", "--disk-usage", "--objects", "HEAD"))


def test_files_and_history_leave_a_clone_small_enough_for_the_index(checkout):
    tree, history = tree_bytes(checkout) / MIB, history_bytes(checkout) / MIB
    assert tree <= TREE_MIB
    assert history <= HISTORY_MIB
    assert tree + history <= CLONE_MIB


def versions(root: Path, revisions: str) -> set[tuple[str, str]]:
    """(path, blob) of every file that a commit of these revisions added or changed, merges included."""
    command = ["log", "--raw", "--no-renames", "--no-abbrev", "-m", "--root", "--diff-filter=AMT", "-z", "--format="]
    fields = git(root, *command, revisions).replace("\n", "").split("\0")
    return {(path, change.split()[3]) for change, path in itertools.pairwise(fields) if change.startswith(":")}


def repeated_large_files(root: Path, start: str, limit: int, meant: frozenset[str] = frozenset()) -> list[str]:
    """Paths of files over `limit` bytes of which a commit after `start` stored a further version.

    meant: names of blobs that may be one.
    """
    before, after = versions(root, start), versions(root, f"{start}..HEAD")
    blobs = sorted({blob for _, blob in before | after})
    sizes = git(root, "cat-file", "--batch-check=%(objectname) %(objectsize)", given="\n".join(blobs)).splitlines()
    large = {blob for blob, size in map(str.split, sizes) if int(size) > limit}
    stored = {blob for _, blob in before} | meant
    paths = [path for path, blob in before if blob in large]
    new = [path for path, blob in after if blob in large - stored]
    return sorted({path for path in new if path in paths or new.count(path) > 1})


def test_no_change_stores_another_version_of_a_large_file(checkout):
    assert repeated_large_files(checkout, FIRST_COMMIT, LARGE_BYTES, MEANT) == []


def commit(root: Path, **files: str) -> str:
    for name, content in files.items():
        (root / name).write_text(content, encoding="utf-8")
    git(root, "add", "--all")
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "core.hooksPath=")
    git(root, *identity, "commit", "--quiet", "--allow-empty", "--message", "docs: change files")
    return git(root, "rev-parse", "HEAD").strip()


def test_another_version_of_a_large_file_is_found(tmp_path):
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, old="1" * 200, gone="1" * 200, small="1")
    (tmp_path / "gone").unlink()
    start = commit(tmp_path, old="2" * 200)
    commit(tmp_path, new="1" * 300, small="2", copied="2" * 200)
    assert repeated_large_files(tmp_path, start, 100) == [], "a first version, a small file and a stored blob are free"
    commit(tmp_path, old="1" * 200)
    assert repeated_large_files(tmp_path, start, 100) == [], "a version from before costs nothing"
    commit(tmp_path, new="2" * 300)
    assert repeated_large_files(tmp_path, start, 100) == ["new"]
    commit(tmp_path, old="3" * 200, gone="3" * 200)
    assert repeated_large_files(tmp_path, start, 100) == ["gone", "new", "old"]
    commit(tmp_path, old="", gone="", new="")
    assert repeated_large_files(tmp_path, start, 100) == ["gone", "new", "old"], "what is stored stays in the history"


def test_the_size_of_a_repository_is_that_of_its_files_and_of_what_they_were(tmp_path):
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, data="0" * 1000)
    assert tree_bytes(tmp_path) == 1000
    first = history_bytes(tmp_path)
    content = "".join(f"{number * 7919 % 10007:x}" for number in range(2000))
    commit(tmp_path, data=content)
    commit(tmp_path, data="")
    assert tree_bytes(tmp_path) == 0
    assert history_bytes(tmp_path) > first + 1000
