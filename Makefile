# Works with GNU make 3.81, which macOS ships.

.PHONY: help run test faults check bench chaos fuzz contract screenshots serve lock audit clean
.DEFAULT_GOAL := help

help:
	@echo 'make run     the whole service on this machine, with demo data   (PORT=8080)'
	@echo 'make test    the tests, without the slow ones           (ARGS="tests/upo -x")'
	@echo 'make faults  what must hold when KSeF, the network or the database fail, a line a row'
	@echo 'make check   format, lint, types, import rules, then all tests, the slow journeys too'
	@echo 'make bench   measures the service against the sandbox, ten minutes  (ARGS="a r")'
	@echo 'make chaos   kills 200 workers, then 200 that follow; judges each rule, 15 minutes (ARGS=20)'
	@echo 'make fuzz    the service against its own OpenAPI, and the models, at length, at random'
	@echo 'make contract  writes docs/openapi and docs/collection, as the code has them'
	@echo 'make screenshots   the pictures of the console in docs/images; needs Chromium'
	@echo 'make serve   production start: gunicorn, settings from the environment'
	@echo 'make lock    write requirements*.txt from requirements*.in       (ARGS=--upgrade)'
	@echo 'make audit   known vulnerabilities of the pinned requirements (asks PyPI; not part of CI)'
	@echo 'make clean   remove the environment, the caches, the data of make run'
	@echo 'PYTHON=…     which Python makes the environment; any from 3.11 on'

run: .venv/.complete
	@.venv/bin/python -m sandbox.run

test: .venv/.complete
	@.venv/bin/pytest -m 'not slow' $(ARGS)

faults: .venv/.complete
	@.venv/bin/python -m tests.faults $(ARGS)

check: .venv/.complete
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/pytest $(ARGS)

bench: .venv/.complete
	@.venv/bin/python -m bench.run $(ARGS)

chaos: .venv/.complete
	@.venv/bin/python -m bench.chaos $(ARGS)

FUZZED = tests/journeys/test_fuzz.py tests/services/sessions/test_linking_order.py tests/ksef/test_lists_model.py

fuzz: .venv/.complete
	@.venv/bin/pytest --hypothesis-profile=fuzz -rP $(ARGS) $(FUZZED)

contract: .venv/.complete
	@.venv/bin/python -m tests.contract

screenshots: .venv/.complete
	@.venv/bin/python -m tests.screenshots $(ARGS)

serve: .venv/bin/ksef-proxy
	@exec .venv/bin/ksef-proxy serve

lock: .venv/.service
	$(PIP) install --quiet uv
	$(COMPILE) --output-file requirements.txt requirements.in
	$(COMPILE) --output-file requirements-dev.txt requirements-dev.in

COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-emit-index-url $(ARGS)

# --strict: a package that the service does not know is a failure, not a clean bill.
audit: .venv/.service
	$(PIP) install --quiet uv
	.venv/bin/uvx --quiet pip-audit --strict --require-hashes --disable-pip --progress-spinner off \
		-r requirements.txt -r requirements-dev.txt

clean:
	rm -rf .venv .run .test .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache \
		build ksef_proxy.egg-info app/COMMIT
	find app sandbox tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# -- The environment. The stamps are newer than the requirements that they stand for.

PIP = .venv/bin/python -m pip --disable-pip-version-check --no-input
INSTALL = $(PIP) install --quiet --require-hashes --root-user-action=ignore --no-user

.venv/.service: requirements.txt
	@$(MAKE_VENV)
	@echo 'Installing the service into .venv'
	@$(INSTALL) -r requirements.txt
	@touch $@

# In any folder, the service as it stands here.
.venv/bin/ksef-proxy: .venv/.service
	@printf '#!/bin/sh\nexec env PYTHONPATH="%s" "%s/.venv/bin/python" -P -m app "$$@"\n' \
		'$(CURDIR)' '$(CURDIR)' >$@
	@chmod +x $@

.venv/.complete: .venv/bin/ksef-proxy requirements-dev.txt
	@echo 'Installing the sandbox, PostgreSQL and the tests into .venv: one to three minutes, once'
	@$(INSTALL) -r requirements.txt -r requirements-dev.txt
	@touch $@

# The first Python that is new enough and can make an environment: Debian's comes without ensurepip.
CANDIDATES = $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3)
USABLE = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))

define MAKE_VENV
if .venv/bin/python -m pip --version >/dev/null 2>&1; then exit 0; fi; \
for python in $(CANDIDATES); do \
	if "$$python" -c '$(USABLE)' >/dev/null 2>&1; then \
		echo "Making the environment .venv with $$python"; \
		exec "$$python" -m venv --clear .venv; \
	fi; \
done; \
echo 'Python 3.11 or newer with its venv module is needed; tried: $(CANDIDATES).' >&2; \
echo 'Debian, Ubuntu: apt install python3-venv. macOS: brew install python3.' >&2; \
echo 'Elsewhere: make PYTHON=/path/to/python' >&2; \
exit 1
endef
