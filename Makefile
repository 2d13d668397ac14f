# Everything happens in .venv; `make` alone lists the commands. Without make: see the README.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# Others: with the package versions of Google Colab, with the oldest that we admit, with the newest
# there are, and with what builds a release.
COLAB  := .venv-colab
OLDEST := .venv-oldest
NEWEST := .venv-newest
RELEASE := .venv-release
# pip install, with the torch that suits the machine; make hands it TORCH.
INSTALL := tools/install.py
INDEX  := notebooks/00_start_here.ipynb

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "The first call makes .venv. With another Python: make PYTHON=python3.12 lab"
	@echo "On Linux, torch comes with CUDA (about 3 GB) where nvidia-smi shows a GPU, else without"
	@echo "(about 200 MB). To choose, before .venv is made: make TORCH=cpu lab, make TORCH=cuda lab"

.PHONY: lab
lab: $(VENV)/.lab ## open the notebooks in JupyterLab
	@# --no-browser would print the address of an empty JupyterLab whatever file it is given; the
	@# default URL is both what it prints and what it opens.
	@set --; \
	if [ "$$(id -u)" = 0 ]; then set -- "$$@" --allow-root; fi; \
	if [ "$$(uname)" = Linux ] && [ -z "$$DISPLAY$$WAYLAND_DISPLAY" ]; then set -- "$$@" --no-browser; fi; \
	exec $(PY) -m jupyterlab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir="$(CURDIR)" \
		--LabApp.default_url=/lab/tree/$(INDEX) "$$@"

.PHONY: test
test: $(VENV)/.test ## check the code, run every test and every notebook
	@$(PY) tools/test.py

.PHONY: test-fast
test-fast: $(VENV)/.test ## lint, formatting, types and the quick tests, in less than two minutes
	@$(PY) tools/test.py --fast

.PHONY: test-colab
test-colab: $(COLAB)/.test ## run the notebooks and tests on the package versions of Google Colab
	@$(COLAB)/bin/python tools/test.py --colab

.PHONY: test-oldest
test-oldest: $(OLDEST)/.test ## run the tests on the oldest versions that metis_nb admits (Python 3.11 or 3.12)
	@$(OLDEST)/bin/python tools/test.py --oldest

# What is newest changes without a file here changing, so pip looks every time.
.PHONY: test-newest
test-newest: ## run the tests on the newest versions of everything
	$(call make_environment,$(NEWEST))
	@$(NEWEST)/bin/python $(INSTALL) --upgrade --upgrade-strategy eager --fallback constraints.txt -e ".[lab,test]"
	@$(NEWEST)/bin/python tools/test.py --newest

.PHONY: check
check: $(VENV)/.test ## only lint, formatting and types
	@$(PY) tools/test.py --check

.PHONY: notebooks
notebooks: $(VENV)/.test ## run the notebooks and store their outputs (one: NOTEBOOK=notebooks/03_ppo.ipynb)
	@$(PY) tools/build_notebooks.py $(NOTEBOOK)

.PHONY: wheel
wheel: ## build what a release is made of into dist/, and check it (a tag too: TAG=v0.1.0)
	$(call make_environment,$(RELEASE))
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check build twine
	@$(RELEASE)/bin/python tools/release.py $(if $(TAG),--tag "$(TAG)")

.PHONY: clean
clean: ## remove caches and builds
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name '.venv*' -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -print | xargs rm -rf

.PHONY: distclean
distclean: clean ## remove .venv and the other environments too
	rm -rf $(VENV) $(COLAB) $(OLDEST) $(NEWEST) $(RELEASE)

# .venv/.lab and .venv/.test say which extras are installed, and since when: pip runs again only when
# a requirement has changed. What tests need includes what the lab needs.
$(VENV)/.lab: pyproject.toml constraints.txt
	$(call make_environment,$(VENV))
	@$(PY) $(INSTALL) -c constraints.txt -e ".[lab]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(call make_environment,$(VENV))
	@$(PY) $(INSTALL) -c constraints.txt -e ".[lab,test]"
	@touch $@ $(VENV)/.lab

# First what Colab has, then metis_nb on top of it, with no constraint on those versions: whether pip
# has left them as they are is what tools/test.py --colab then checks.
$(COLAB)/.test: pyproject.toml constraints.txt constraints-colab.txt
	$(call make_environment,$(COLAB))
	@$(COLAB)/bin/python tools/colab.py --rest >$(COLAB)/rest.txt
	@$(COLAB)/bin/python $(INSTALL) -r constraints-colab.txt -c $(COLAB)/rest.txt
	@$(COLAB)/bin/python $(INSTALL) -c $(COLAB)/rest.txt -e ".[test]"
	@touch $@

# Where PyTorch's index of builds without CUDA cannot be reached, the usual torch and the oldest else.
$(OLDEST)/.test: pyproject.toml constraints.txt constraints-oldest.txt
	$(call make_environment,$(OLDEST))
	@$(OLDEST)/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || { \
		rm -rf $(OLDEST); \
		echo "The oldest numpy and torch have no wheels for Python 3.13. Please name another: make PYTHON=python3.11 test-oldest"; exit 1; }
	@$(OLDEST)/bin/python $(INSTALL) --fallback constraints.txt -c constraints-oldest.txt -e ".[lab,test]"
	@touch $@

define make_environment
@if [ ! -x $(1)/bin/python ]; then \
	command -v $(PYTHON) >/dev/null || { \
		echo "$(PYTHON) was not found. Please install Python 3.11 or newer (Debian, Ubuntu: apt install python3 python3-venv)."; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "metis_nb needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Please name another: make PYTHON=python3.12 $(or $(MAKECMDGOALS),lab)"; exit 1; }; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. Please install its venv module (Debian, Ubuntu: apt install python3-venv)."; exit 1; }; \
	echo "Making $(1) with $$($(PYTHON) --version)"; \
	$(PYTHON) -m venv --clear $(1); \
fi
@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(1)/bin/python -m ensurepip
@echo "Installing metis_nb and what it needs (the first time, a few minutes)"
endef
