# Two commands on a fresh machine (Python >= 3.11 and make): `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
RUN := runs/quickstart

.PHONY: quickstart test slow lowest wheel docs notebooks lint format benchmark gpu-kit gpu clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lit_iba needs Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e '.[dev]'
	touch $@

# One line a step: $(call step,number,what it does and where to look,command). What the command says goes to a log, whose end is
# shown where it fails. make splits the arguments at commas, so there are none in them.
define step
@echo "$(1)/7  $(2)"; mkdir -p $(RUN)/logs; \
	$(3) > $(RUN)/logs/$(1).log 2>&1 || { status=$$?; tail -n 40 $(RUN)/logs/$(1).log; \
	echo "step $(1) failed; all that it said is in $(RUN)/logs/$(1).log" >&2; exit $$status; }
endef

# Train, explain, evaluate, export and report on the embedded data; under five minutes on two cores once the packages are there.
quickstart: $(VENV)/.installed
	$(call step,1,train a small classifier on digits over photographs: $(RUN)/classifier,$(PY) train.py fit --config configs/quickstart/classifier.yaml)
	$(call step,2,test it on held-out pictures: the end of $(RUN)/logs/2.log,$(PY) train.py test --config configs/quickstart/classifier.yaml --ckpt_path $(RUN)/classifier/checkpoints/last.ckpt)
	$(call step,3,train a Readout bottleneck for it: $(RUN)/readout,$(PY) train.py fit --config configs/quickstart/readout.yaml)
	$(call step,4,explain four pictures in bits: $(RUN)/explain/explanations.html,$(PY) evaluate.py explain data/quickstart/examples/*.jpg --config configs/quickstart/explain.yaml)
	$(call step,5,judge seven methods by three metrics: $(RUN)/benchmark/report.html,$(PY) evaluate.py benchmark --config configs/quickstart/benchmark.yaml --fresh true)
	$(call step,6,export the bottleneck as a program that needs torch alone: $(RUN)/export/README.md,$(PY) evaluate.py export $(RUN)/readout/checkpoints/best.ckpt --out $(RUN)/export)
	$(call step,7,explain two photographs to an ImageNet classifier: $(RUN)/photographs/explanations.html,$(PY) evaluate.py explain chelsea coffee --config configs/quickstart/photographs.yaml)
	@echo "done: open the two pages of steps 5 and 7 in a browser; the curves of training: $(VENV)/bin/tensorboard --logdir $(RUN)"

# A file of tests stays in one process, with its fixtures; the longest come first (tests/conftest.py).
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# What a change is tried with in some minutes; what takes more than two seconds of processor time is in `slow`.
test: $(VENV)/.installed
	$(PY) $(PYTEST) -m "not slow"

# Trainings that are killed, every config of a paper's figure, exports, the quickstart: twice as long as `test`.
slow: $(VENV)/.installed
	$(PY) $(PYTEST) -m slow

# The suite with the lowest versions that pyproject.toml allows, in an environment of its own.
lowest: $(VENV)/.installed
	$(VENV)/bin/uv venv --quiet --clear --python $(PY) $(VENV)-lowest
	$(VENV)/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct -e '.[dev]'
	$(VENV)-lowest/bin/python $(PYTEST)

# The package as others install it, tried in an environment of its own and a folder that is no checkout.
wheel: $(VENV)/.installed
	rm -rf dist
	$(PY) -m build --outdir dist > /dev/null
	$(PY) -m venv --clear $(VENV)-wheel
	for wheel in dist/*.whl; do $(VENV)-wheel/bin/python -m pip install --quiet "$$wheel[export,view]"; done
	.ci/smoke $(VENV)-wheel

# Run the notebooks and save what they give, in an empty folder each.
notebooks: $(VENV)/.installed
	for book in notebooks/*.ipynb; do (cd "$$(mktemp -d)" && PYTHONWARNINGS="ignore:IProgress not found" \
		$(abspath $(VENV))/bin/jupyter execute --inplace "$(CURDIR)/$$book") || exit 1; done

# The site, in site/; a dead link or a name that is not there is an error.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet
	@echo "open site/index.html"

lint: $(VENV)/.installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.installed
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Speed, as ratios against a peer or a floor in the same run; results also go to benchmarks/results/.
benchmark: $(VENV)/.installed
	$(PY) benchmarks/blur.py
	$(PY) benchmarks/input_iba.py --side 128
	$(PY) benchmarks/loading.py
	$(PY) benchmarks/metrics.py
	$(PY) benchmarks/one_pass.py
	$(PY) benchmarks/per_sample_iba.py
	$(PY) benchmarks/readout_training.py --batch 8 --repeats 3
	$(PY) benchmarks/scaling.py
	$(PY) benchmarks/soft_top_k.py
	$(PY) benchmarks/varsal_training.py --batch 4 --divide 2

# What a machine with a GPU, torch and lightning but no network needs: make gpu-kit PHOTOGRAPHS="val-*.tar" TRAIN="train-*.tar"
# WEIGHTS="resnet50.safetensors.xz resnet18.safetensors.xz"; see benchmarks/gpu_kit.py. Then take the checkout there, and make gpu.
gpu-kit: $(VENV)/.installed
	$(PY) benchmarks/gpu_kit.py --photographs $(foreach f,$(PHOTOGRAPHS),'$(f)') --train $(foreach f,$(TRAIN),'$(f)') --weights $(WEIGHTS)

# Eight minutes on a GPU: the CUDA tests, speed against the device's limits, trainings and tables. PYTHON is the one that has torch.
gpu:
	test ! -d gpu_kit/wheels || $(PYTHON) -m pip install --quiet --no-index --no-deps gpu_kit/wheels/*.whl
	PYTHONPATH=. $(PYTHON) benchmarks/gpu.py

clean:
	rm -rf runs outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis
