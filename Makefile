# For developers; ./demo and ./test need nothing from here. All of it uses the environment that ./test makes.
PYTHON ?= .venv/bin/python

.PHONY: bench check clinic dist soak ui

check: ; ./test

dist: ; $(PYTHON) -m build --outdir dist .

ui: ; $(PYTHON) hatch_build.py ui

# The cost of a step, of the rules beside it, the kernel, the store: about an hour on a quiet machine
bench:
	$(PYTHON) benchmarks/overhead.py --profile
	$(PYTHON) benchmarks/rules.py
	$(PYTHON) benchmarks/kernel.py
	$(PYTHON) benchmarks/store.py

# One hour of training with a reader beside it, then half an hour of the page over a run that is being written
soak:
	$(PYTHON) benchmarks/soak.py
	$(PYTHON) benchmarks/page.py --only live --live-minutes 30

# Programs with a known fault, their repaired twins and healthy ones, by us and by two others: about two hours on two quiet cores
clinic:
	$(PYTHON) -m clinic run --part measured --tool weighbridge --tool torchmortem --tool torch-audit
	$(PYTHON) -m clinic run --part fresh --tool weighbridge --tool torchmortem --tool torch-audit
