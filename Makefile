# Two commands do everything on a fresh machine: `make demo` and `make test`.
# They need Python 3.11+, make and a C compiler.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
TOOLS  := $(VENV)/.tools
FILE   ?=

SOURCES := pyproject.toml build_ffi.py $(wildcard csrc/*.h) $(filter-out csrc/_native.c,$(wildcard csrc/*.c))

.PHONY: help venv demo test lint format bench sanitize fuzz dist clean test-all test-core

help:
	@echo "make demo [FILE=...]  seal a real file, read from its middle, show that tampering is caught"
	@echo "make test [WORKERS=3]  run the tests, in so many processes"
	@echo "make test-all         run them on every CPython that is found, 3.11 and newer"
	@echo "make lint             ruff, mypy --strict, clang-format"
	@echo "make format           rewrite the sources the way lint wants them"
	@echo "make bench            measure against rivals in one run; writes bench/results.json"
	@echo "make sanitize         run the tests of the C under ASan and UBSan"
	@echo "make fuzz [SECONDS=60]  fuzz every parser for so long each"
	@echo "make dist             build the sdist and the abi3 wheel into dist/"
	@echo "make clean            remove everything that the targets made"

venv: $(TOOLS)

$(STAMP): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[cache,cli,http]"
	touch $@

# What tests and linters need, the servers included.
$(TOOLS): $(STAMP)
	$(BIN)/python -m pip install --quiet --group test --group lint
	touch $@

demo: $(STAMP)
	$(BIN)/python -m anyseal demo $(FILE)

# Much of a test is waiting for its server: three processes keep two cores busy. Each has its own
# servers. Arguments for pytest come after these: `make test ARGS="-n 0 tests/test_gil.py"`.
WORKERS ?= 3

test: venv
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "not slow" $(ARGS)

# On every CPython that .ci/pythons finds, one after another, each in its .venv-3.x. One wheel serves
# all of them: it is abi3. SKIP_PYTHON=3.11 leaves one out.
WHEEL := build/wheel
SKIP_PYTHON ?= none

$(WHEEL)/.ready: $(STAMP) $(SOURCES) $(shell find src -name '*.py')
	rm -rf $(WHEEL)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir $(WHEEL) .
	touch $@

test-all: $(WHEEL)/.ready
	@set -e; wheel=$$(echo $(WHEEL)/*.whl); .ci/pythons | while read -r version python; do \
		test $$version != $(SKIP_PYTHON) || continue; \
		echo "== CPython $$version"; \
		bin=.venv-$$version/bin; \
		test -x $$bin/python || $$python -m venv .venv-$$version; \
		$$bin/python -m pip install --quiet --upgrade "pip>=25.1"; \
		$$bin/python -m pip install --quiet "$$wheel[cache,cli,http]"; \
		$$bin/python -m pip install --quiet --force-reinstall --no-deps $$wheel; \
		$$bin/python -m pip install --quiet --group test; \
		$$bin/python -m pytest -q -n $(WORKERS) --dist worksteal $(ARGS) </dev/null; \
	done

# The core, which needs no server: values, objects, keys, sessions, files, and the cache in memory.
CORE_TESTS := tests/test_values*.py tests/test_keys.py tests/test_record.py tests/test_base64.py \
	tests/test_objects*.py tests/test_readers.py tests/test_files.py tests/test_vectors.py \
	tests/test_tasks.py tests/test_flight.py tests/test_session*.py tests/test_hierarchy*.py \
	tests/test_keyrings.py tests/test_gil.py tests/test_cache_vectors.py tests/test_cache_codecs.py \
	tests/test_compat_asherah.py

test-core:
	$(MAKE) test-all WORKERS=2 ARGS="$(CORE_TESTS)"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/generate_sync.py --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/anyseal.h csrc/anyseal.cdef.h $(filter-out csrc/_native.c,$(wildcard csrc/*.c))

format: venv
	$(BIN)/ruff check --fix --quiet . || true
	$(BIN)/ruff format --quiet .
	$(BIN)/python .ci/generate_sync.py
	$(BIN)/clang-format -i csrc/anyseal.h csrc/anyseal.cdef.h $(filter-out csrc/_native.c,$(wildcard csrc/*.c))

$(VENV)/.bench: $(TOOLS)
	$(BIN)/python -m pip install --quiet --group bench
	touch $@

bench: $(VENV)/.bench
	$(BIN)/python -m bench $(ARGS)

# The extension is instrumented, libsodium is not. Without pymalloc each Python object is a block of
# its own, so that ASan sees the end of every buffer. The interpreter's own leaks are not ours.
SANITIZED := build/sanitize
SANITIZE_TESTS := tests/test_values*.py tests/test_keys.py tests/test_keyrings_passphrase.py \
	tests/test_record.py tests/test_base64.py tests/test_objects*.py tests/test_vectors.py \
	tests/test_third_party.py tests/test_inputs.py tests/test_overlap.py tests/test_races.py \
	tests/test_fuzz.py

sanitize: venv
	ANYSEAL_SANITIZE=1 $(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(SANITIZED)/lib .
	ldd $(SANITIZED)/lib/anyseal/_native.abi3.so | grep -q libasan
	PYTHONPATH=$(SANITIZED)/lib PYTHONMALLOC=malloc \
		LD_PRELOAD="$$(cc -print-file-name=libasan.so)" \
		ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
		$(BIN)/python -m pytest -q -p no:cacheprovider $(SANITIZE_TESTS) $(ARGS)

# Coverage-guided, SECONDS for each target; what it finds stays in build/fuzz.
SECONDS ?= 60
FUZZ := .venv-fuzz

$(FUZZ)/.ready: $(SOURCES) $(wildcard src/anyseal/*.py src/anyseal/*/*.py)
	test -x $(FUZZ)/bin/python || $(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(FUZZ)/bin/python -m pip install --quiet --force-reinstall --no-deps .
	$(FUZZ)/bin/python -m pip install --quiet ".[arrow,cache,cachekit]" zstandard atheris
	touch $@

fuzz: $(FUZZ)/.ready
	$(FUZZ)/bin/python tests/fuzz/run.py --seconds $(SECONDS) $(ARGS)

dist: venv
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --outdir dist .
	@! grep -q '//anyseal\.example/' pyproject.toml || \
		echo "note: [project.urls] has no real address yet: not for publishing"

clean:
	rm -rf $(VENV) .venv-* build dist .demo src/*.egg-info src/anyseal/*.so csrc/_native.c
