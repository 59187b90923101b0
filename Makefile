# For developers; ./demo and ./test need nothing from here. All of it uses the environment that ./test makes.
PYTHON ?= .venv/bin/python

.PHONY: bench check dist ui

check: ; ./test

dist: ; $(PYTHON) -m build --outdir dist .

ui: ; $(PYTHON) hatch_build.py ui

bench: ; $(PYTHON) benchmarks/overhead.py --profile
