# Two commands for a newcomer: `make demo` and `make test`. Both set everything up first.
export VENV ?= .venv
PY := $(VENV)/bin/python
# Open MPI refuses root unless told twice; a container's only user is often root. Ranks may outnumber cores in tests, as
# Open MPI 4 is told by the third name and Open MPI 5 by the fourth.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export OMPI_MCA_rmaps_base_oversubscribe := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe

.PHONY: setup demo test test-all test-stacks test-gpu-graph \
  test-slurm test-multihost test-containers bench bench-baseline

setup:
	@scripts/setup.sh

demo: setup
	@$(PY) scripts/demo.py

# Most tests keep one core busy. More processes than these take gigabytes of memory each for little.
TEST_PROCESSES ?= $(shell cores=$$(nproc); echo $$((cores < 4 ? cores : 4)))
# A test that hangs fails with its name and all threads' stacks; the others go on in a new process.
test: setup
	@$(PY) -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --timeout 600 --timeout-method thread

test-all: setup
	@$(PY) -m pytest -q -m "not slurm and not multihost and not stacks and not gpu_graph and not containers"

# `make test` with each set of constraints/ whose Python is there, then what the sets have to agree on.
test-stacks:
	@scripts/test_stacks.sh

# In an environment of its own, which has the CUDA build of TensorFlow and needs no CUDA and no GPU.
test-gpu-graph:
	@$(MAKE) --no-print-directory setup VENV=.venv-gpu-graph GPU=graph
	@.venv-gpu-graph/bin/python -m pytest -q -rs -n $(TEST_PROCESSES) -m gpu_graph tests/test_gpu_graph.py

# These need root; where they cannot run they are skipped with the reason.
CLUSTER_TESTS := $(PY) -m pytest -v -rs --durations=0 --durations-min=1

test-slurm: setup
	@scripts/install-packages.sh slurm-wlm munge iproute2 procps
	@$(CLUSTER_TESTS) -m slurm tests/test_slurm.py

test-multihost: setup
	@scripts/install-packages.sh iproute2 procps
	@$(CLUSTER_TESTS) -m multihost tests/test_multihost.py

test-containers: setup
	@scripts/install-packages.sh debootstrap
	@$(CLUSTER_TESTS) -m containers tests/test_containers.py

# Ratios of this code against those of this generation of processors in benchmarks/baselines/; tables and JSON files are
# in bench/. With a Python that has PyTorch attacks and steps are measured there as well:
# make bench TORCH_PYTHON=torch-env/bin/python
BENCH := $(PY) benchmarks/compare.py $(if $(TORCH_PYTHON),--torch-python $(TORCH_PYTHON))
bench: setup
	@$(BENCH)

# The medians of three runs.
bench-baseline: setup
	@$(BENCH) --runs 3 --write-baseline
