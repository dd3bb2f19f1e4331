# Every target sets up what it needs: Python 3.11 or newer, git and make are enough to start.
#   make demo    complete a real patient's skull and leave the result in demo/
#   make test    what the system lacks for the tests, lint, `pip check` and every test
#   make docs    the documentation site, into site/
#   make tutorial   the README's pictures of the panel, by going through it
#   make bench   seconds and peak memory of each stage, into bench/
#   make bench-batch   cases per core-hour of skullvae batch, with one worker and with two, into bench/
#   make bench-scale   time and memory from 128^3 to 768^3 voxels, into bench/scale/
#   make bench-accuracy DATA=FOLDER [ARGS="--evaluation FOLDER2"]   implants of every method on held-out skulls, into bench/
#   make bench-quality DATA=FOLDER ARGS="--folds FOLDER"   whether the quality score tells what fails, into bench/quality/
#   make bench-training ARGS="--data SET"   training beside a faithful loop of the original, into bench/
#   make lint    ruff, mypy and the layers of the packages (import-linter)
#   make types   mypy, which make lint runs, too
#   make coverage   every test, and how much of the library they run, into coverage/
#   make lock    requirements.lock: every runtime package with its hashes, at the versions of constraints.txt
#   make licences   Docs/licences.md, of what requirements.lock names
#   make audit   known vulnerabilities of what requirements.lock names; asks a public service
#   make golden  the implant that tests compare with, anew; only after a change that is meant to alter implants
#   make fuzz ARGS="--minutes 30"   whatever bytes a file of a volume or a model has; findings into fuzz/
#   make faults ARGS="--kills 60"   killed, starved and disturbed runs; figures into faults/
#   make compare-versions BASE=COMMIT SKULLS=FOLDER   whether this checkout gives the same results as that commit
#
# Where a plain `pip install torch` would bring CUDA along and that is not wanted, tell pip of a CPU build in its
# usual ways, for instance: make venv PIP_ARGS="--find-links /folder/with/wheels"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=

bin := $(VENV)/bin
stamp := $(VENV)/.installed

.PHONY: venv libraries demo test docs tutorial bench bench-batch bench-scale bench-accuracy bench-quality bench-training \
  fuzz faults golden lint types coverage lock licences audit clean
.DEFAULT_GOAL := test

venv: $(stamp)

# The stamp makes the second call free; it is renewed when what should be installed changes.
# torch is named first so that pip takes the pinned build (a local CPU build of that version satisfies the pin).
$(stamp): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch
	$(bin)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[test,slicer,dev,training,batch,dicom,3mf,docs]'
	touch $@

# What the tests need from the system beside Python packages; first, since the rest takes minutes.
libraries:
	@$(PYTHON) Testing/system_libraries.py

demo: $(stamp)
	$(bin)/python Testing/demo.py $(ARGS)

lint: $(stamp)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

types: $(stamp)
	$(bin)/mypy

# Subprocesses are measured, too.
coverage: libraries $(stamp)
	$(bin)/coverage erase
	$(bin)/coverage run -m pytest Testing $(ARGS)
	$(bin)/coverage combine --quiet
	$(bin)/coverage html --quiet --directory coverage
	$(bin)/coverage report --show-missing --skip-covered

test: libraries lint
	$(bin)/python -m pip --disable-pip-version-check check
	$(bin)/python -X faulthandler -m pytest Testing -n auto --maxprocesses 4 --dist loadfile $(ARGS)

# Pictures of the gallery are made where the library, the model or a script has changed. The variable silences a remark on
# the future of MkDocs.
docs: $(stamp)
	NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict $(ARGS)

# The README's pictures of the panel; after make demo, which fetches the patient.
tutorial: $(stamp)
	$(bin)/python Testing/tutorial.py $(ARGS)

bench: $(stamp)
	$(bin)/python Testing/bench.py $(ARGS)

bench-batch: $(stamp)
	$(bin)/python Testing/bench_batch.py $(ARGS)

bench-accuracy: $(stamp)
	@test -n "$(DATA)" || { echo 'Name the folder of complete skulls: make bench-accuracy DATA=FOLDER' >&2; exit 2; }
	$(bin)/python Testing/accuracy.py --data "$(DATA)" $(ARGS)

bench-scale: $(stamp)
	$(bin)/python Testing/bench_scale.py $(ARGS)

bench-quality: $(stamp)
	@test -n "$(DATA)" || { echo 'Name the folder of complete skulls: make bench-quality DATA=FOLDER' >&2; exit 2; }
	$(bin)/python Testing/quality.py --data "$(DATA)" --output bench/quality $(ARGS)

bench-training: $(stamp)
	$(bin)/python Testing/bench_training.py $(ARGS)

# What a release needs beyond what is always installed.
release := $(VENV)/.release

$(release): $(stamp)
	$(bin)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[release]'
	touch $@

# The hashes are those of the public index's files, whatever build of torch is installed here.
lock: $(release)
	$(bin)/uv pip compile pyproject.toml -c constraints.txt --generate-hashes --universal --python-version 3.11 \
	  --no-config --no-header --no-emit-index-url --upgrade --quiet -o requirements.lock

licences: $(release)
	$(bin)/python Testing/licences.py

audit: $(release)
	$(bin)/pip-audit -r requirements.lock --disable-pip --no-deps $(ARGS)

golden: $(stamp)
	$(bin)/python Testing/golden.py
# The fuzzer is fetched here alone: it has no wheel for every Python, and nothing else needs it.
fuzz: $(stamp)
	$(bin)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[fuzz]'
	$(bin)/python Testing/fuzz.py $(ARGS)

faults: $(stamp)
	$(bin)/python Testing/faults.py $(ARGS)

# Both versions are recorded into bench/versions and compared file by file.
.PHONY: compare-versions
compare-versions: $(stamp)
	@test -n "$(BASE)" || { echo 'Name a commit: make compare-versions BASE=COMMIT SKULLS=FOLDER' >&2; exit 2; }
	$(bin)/python Testing/compare_versions.py against "$(BASE)" $(if $(SKULLS),--skulls "$(SKULLS)") $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.* coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
