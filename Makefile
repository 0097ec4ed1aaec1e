# The front door. `make book` on a fresh clone is all that a reader needs.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
TESTS_INSTALLED := $(VENV)/.tests-installed
PIP_INSTALL := $(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements.txt
# What could not be installed is said once, at the end of the build.
GET_LATEX := $(PYTHON) -m book latex > /dev/null

.DEFAULT_GOAL := help
# Through the environment and as it is, so that nothing in it is run.
override export NAME := $(value NAME)
# Python's own settings are for other environments: with one of them it would not even find the book.
unexport PYTHONSAFEPATH PYTHONHOME PYTHONPATH
.PHONY: help book quick rerun test faults bench status submission latex browser clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

book: $(INSTALLED) ## bring the full book up to date: HTML and PDF
	@$(GET_LATEX)
	@$(PYTHON) -m book build

quick: $(INSTALLED) ## the whole book on reduced settings, in a few minutes
	@$(GET_LATEX)
	@$(PYTHON) -m book build --profile quick

rerun: $(INSTALLED) ## the full book from nothing: every network is trained again
	@$(GET_LATEX)
	@$(PYTHON) -m book rerun

test: $(TESTS_INSTALLED) latex browser ## lint, unit tests, and the quick book with its contents checked
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

faults: $(INSTALLED) ## a thousand faults on purpose, such as kills, flipped bits and full disks, with their outcomes
	@OMP_NUM_THREADS=1 $(PYTHON) -m tests.faults.campaign --tries 1000

bench: $(INSTALLED) ## time the NumPy network against scikit-learn and PyTorch, and VGG16's backbone against torchvision's
	@$(PYTHON) -m benchmarks.bench_mlp
	@$(PYTHON) -m benchmarks.bench_vgg16

status: $(INSTALLED) ## which chapters are fresh, which are stale, and why
	@$(PYTHON) -m book status

submission: $(INSTALLED) ## make the archive to hand in: make submission NAME=2020123
	@$(PYTHON) -m book submission "$$NAME"

latex: $(INSTALLED) ## install what the PDF needs, where that is possible without asking
	@$(PYTHON) -m book latex

browser: $(INSTALLED) ## install what the tests open the pages in, where that is possible without asking
	@$(PYTHON) -m book browser

clean: ## remove everything that was made, but the published results
	rm -rf _build

# The stamp is as old as the versions that it was installed from. A venv that fails may leave half a folder.
$(INSTALLED): requirements.txt constraints.txt
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@test -x $(PYTHON) || python3 -m venv $(VENV) > /dev/null || { rm -rf $(VENV); \
		echo "could not make $(VENV); on Debian or Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@echo "installing requirements.txt into $(VENV)"
	@$(PIP_INSTALL)
	@touch $@

# The tests also compute on a cluster, of two workers on this machine.
$(TESTS_INSTALLED): $(INSTALLED) requirements-cluster.txt
	@echo "installing requirements-cluster.txt into $(VENV)"
	@$(PIP_INSTALL) -r requirements-cluster.txt
	@touch $@
