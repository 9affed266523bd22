# `make demo` and `make test` need Python 3.10 to 3.13 and nothing else: they set up $(VENV) themselves, once.
# Another interpreter: `make test PYTHON=python3.13`. PINS lists further version limits in pip's syntax.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# With pyenv, `python3.10` fails if another version is selected. Then we take pyenv's own file of that version.
INTERPRETER := $(shell $(PYTHON) -c "" 2>/dev/null && echo "$(PYTHON)" || \
	ls -d "$$(pyenv root 2>/dev/null)"/versions/*/bin/$(PYTHON) 2>/dev/null | tail -1)
# The file name contains the Python version. Make reinstalls if the version or setup.py changes.
VERSION := $(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
STAMP := $(VENV)/installed-$(VERSION)
LOG := $(VENV)/install.log
OLDEST := tensorflow==2.18.* tf-keras==2.18.* keras==3.6.* numpy==2.0.*

.DELETE_ON_ERROR:
.PHONY: help demo docs gallery package distributed-demo test tests test-oldest test-next newest mutants lint format clean

help:
	@echo "make demo         train two examples; pictures, models and exports go to demo/"
	@echo "make distributed-demo  train as two workers on this machine, and as one process, and compare"
	@echo "make docs         build the site in docs/_build/html"
	@echo "make gallery      run all examples, and store their pictures in docs/gallery (half an hour)"
	@echo "make package      build wheel and sdist in dist/, and run the quick start with the wheel"
	@echo "make test         ruff and mypy, then all tests"
	@echo "make test-oldest  the tests on the oldest supported versions, in .venv-oldest"
	@echo "make test-next    for maintainers: all tests on the newest pre-releases, even if setup.py excludes them, in .venv-next"
	@echo "make mutants      for maintainers: put in one fault at a time, and list the faults that no test notices"
	@echo "make lint         ruff and mypy alone"
	@echo "make format       format the code with ruff"
	@echo "make clean        delete all files and environments that make created"

$(STAMP): setup.py
	@case "$(VERSION)" in \
	3.10|3.11|3.12|3.13) ;; \
	*) echo "Python 3.10 to 3.13 is needed, but $(PYTHON) is $(or $(VERSION),not there);" \
		"choose another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1 ;; \
	esac
	@echo "Setting up $(VENV) with Python $(VERSION) (once, some minutes) ..."
	@$(INTERPRETER) -m venv --clear $(VENV)
	@$(RUN) -m pip install -e '.[examples,test]' $(PINS) > $(LOG) 2>&1 || \
		{ cat $(LOG) >&2; echo "Setting up $(VENV) failed; the messages above are in $(LOG)." >&2; exit 1; }
	@touch $@

demo: $(STAMP)
	@$(RUN) examples/tabular.py --out demo/tabular
	@echo
	@$(RUN) examples/two_moons.py --out demo/two_moons
	@echo
	@echo "Open demo/tabular/picture.png and demo/two_moons/two_moons.png."
	@echo "Your own table: $(RUN) -m tfp_realnvp fit YOUR.csv --out FOLDER"
	@echo "Next: docs/tutorials/table.md, or 'make docs' for the whole site."

docs: $(VENV)/docs-installed
	@$(RUN) -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html."

gallery: $(STAMP)
	@$(RUN) docs/_ext/gallery.py

# The wheel and the sdist, and the quick start with the wheel in an empty environment.
package: $(STAMP)
	@rm -rf build dist $(VENV)/try
	@{ $(RUN) -m pip install build twine && $(RUN) -m build && $(INTERPRETER) -m venv $(VENV)/try && \
	$(VENV)/try/bin/python -m pip install dist/*.whl; } > $(LOG) 2>&1 || { cat $(LOG) >&2; exit 1; }
	@$(RUN) -m twine check --strict dist/*
	@$(RUN) tests/quick_start.py | TF_CPP_MIN_LOG_LEVEL=3 $(VENV)/try/bin/python -
	@rm -rf $(VENV)/try

$(VENV)/docs-installed: $(STAMP)
	@echo "Installing Sphinx in $(VENV) (once) ..."
	@$(RUN) -m pip install -e '.[docs]' > $(LOG) 2>&1 || { cat $(LOG) >&2; exit 1; }
	@touch $@

distributed-demo: $(STAMP)
	@$(RUN) examples/distributed.py --compare --epochs 2 --data demo/rows --out demo/distributed

test: lint tests

tests: $(STAMP)
	@$(RUN) -m pytest -n 2 --dist worksteal

test-oldest:
	@$(MAKE) --no-print-directory tests PYTHON=python3.10 VENV=.venv-oldest PINS="$(OLDEST)"

test-next:
	@$(MAKE) --no-print-directory newest VENV=.venv-next
	@$(MAKE) --no-print-directory tests VENV=.venv-next

# Release candidates of TensorFlow, nightly builds of Keras and TFP; newer ones each time. Nightly packages install the
# same files under other package names, so Keras is uninstalled first. tf-keras says that it needs an older TensorFlow.
newest: $(STAMP)
	@echo "Upgrading $(VENV) to the newest pre-releases ..."
	@{ $(RUN) -m pip install --pre --upgrade tensorflow && \
	$(RUN) -m pip install --pre --upgrade --no-deps tf-keras && \
	$(RUN) -m pip uninstall --yes keras keras-nightly tensorflow-probability tfp-nightly && \
	$(RUN) -m pip install --pre keras-nightly tfp-nightly; } > $(LOG) 2>&1 || { cat $(LOG) >&2; exit 1; }
	@$(RUN) -m pip list 2>/dev/null | grep -iE '^(tensorflow|keras|tf.keras|tfp|numpy)'

mutants: $(STAMP)
	@$(RUN) tests/mutants.py

lint: $(STAMP)
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

format: $(STAMP)
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

clean:
	rm -rf docs/_build .venv .venv-oldest .venv-next demo build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
