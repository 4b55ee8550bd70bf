# Shortcuts for people; CI runs .ci/run. All expect an environment with `pip install -e '.[test]'`.
T ?= tests
WORKERS ?= 2
BEFORE ?=
MARKED = (process or training or compile or browser or oracle or fuzz) and not full
export MPLBACKEND = Agg

.PHONY: quick test marked full lint docs site bench figures

quick:  ## the inner loop: `make quick T=tests/losses`
	python -m pytest -x -n $(WORKERS) $(T)

test:  ## the README's test command
	python -m pytest

marked:  ## tests with a mark but `full`: `make marked T=tests/trainer`
	python -m pytest -n $(WORKERS) --dist loadfile -m '$(MARKED)' $(T)

full:  ## everything, in a fresh environment, with the tests that take minutes
	.ci/full

lint:  ## style, types, floors
	ruff format --check .
	ruff check .
	mypy
	lint-imports

docs:  ## the docs are true: their code runs, commands parse, paths exist
	python -m pytest tests/test_docs.py tests/test_site.py -m 'not full'

site:  ## the site, into site/: `pip install -e '.[docs]'` first; `mkdocs serve` shows it
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

bench:  ## the benchmarks with a peer: `make bench PEER_PYTHON=FILE PEER_SCRIPTS=FOLDER`, see docs/performance.md
	python -m benchmarks.compare $(if $(PEER_PYTHON),--peer-python $(PEER_PYTHON) --peer-scripts $(PEER_SCRIPTS))

figures:  ## figures of the code: `make figures BEFORE=../older-checkout`
	python -m benchmarks.house_figures $(if $(BEFORE),--tree $(BEFORE)) --tree .
