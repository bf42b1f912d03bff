# make demo    compress a photograph and decode it again, into demo/
# make test    install everything, then run all checks and tests
# make check   the same without installing: with what is in .venv, or in the Python that BIN names
# make check-portable
#              the tests that depend on floats once more, computed as on a processor without AVX
# make results PICTURES=kodak LPIPS=lpips_squeeze.safetensors
#              measure everything that RESULTS.md tells, into report/, and write it there
# make clean   remove what these made

PYTHON ?= python3
BIN ?= .venv/bin
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check check-portable results clean
.DEFAULT_GOAL := check

demo: .venv/demo.stamp
	.venv/bin/python examples/demo.py

test: .venv/dev.stamp
	$(MAKE) --no-print-directory check

check:
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy cdcodec examples
	$(BIN)/python -m pytest

# Without AVX, floating-point sums differ in their last bits, and so may symbols, sizes of files and
# pixels. Tests that train until a loss falls are left out: they take most of the time.
PORTABLE = cgdm codec_cdc context_exactness contract exactness latent palette transcode vectors

check-portable:
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -k 'not loss' $(PORTABLE:%=tests/test_%.py)

results: .venv/dev.stamp
	@test -n "$(PICTURES)" -a -n "$(LPIPS)" || \
		{ echo 'make results PICTURES=FOLDER LPIPS=FILE' >&2; exit 2; }
	.venv/bin/python -m tests.benchmarks.results "$(PICTURES)" "$(LPIPS)"

clean:
	rm -rf .venv demo report build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find cdcodec examples tests -name __pycache__ -type d -exec rm -rf {} +

# A stamp says that .venv has what the two files asked for. torch is named first and in the same
# command as everything else: nothing can bring another build of it along.
.venv/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch -e . scikit-image
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch -e '.[dev]'
	$(PIP) --no-deps piq
	touch .venv/demo.stamp $@
