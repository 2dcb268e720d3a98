# Every target works on a fresh machine with Python >= 3.11 (venv), a C++ compiler and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := -m pip install --quiet --disable-pip-version-check
KERNELS := CMakeLists.txt $(wildcard csrc/*.* csrc/*/*)
SOURCES := pyproject.toml constraints.txt $(KERNELS)

.PHONY: help build demo docs wheel runtime runtime-test runtime-cross runtime-wasm test test-all test-triton test-gpu check format sanitize fuzz fuzz-sanitize

help:
	@echo "make demo      one network through the whole chain, then the paper's question"
	@echo "make test      the tests; make test-all adds the slow ones"
	@echo "make test-triton  the GPU kernels in Triton's interpreter, and compiled for GPUs (1 GB to install)"
	@echo "make test-gpu  masks on the GPU of this machine, and what they cost there"
	@echo "make check     ruff, formatting, mypy --strict"
	@echo "make format    apply ruff's fixes and formatting"
	@echo "make sanitize  decoders and inference kernels under AddressSanitizer and UBSan"
	@echo "make fuzz      hostile files and programs until SECONDS are over (default 600), SEED=text"
	@echo "make fuzz-sanitize  the same under AddressSanitizer and UBSan"
	@echo "make docs      the documentation as a site, in build/site"
	@echo "make wheel     a wheel in dist/, tried out in a bare environment"
	@echo "make runtime   libbillhook, billhook.h and the wheel billhook-runtime in dist/, without torch"
	@echo "make runtime-test  the runtime where numpy is all there is; make runtime-cross: for aarch64 or ARCH=riscv64, armhf, in qemu"
	@echo "make runtime-wasm  the runtime for web pages, with a page that runs a program"
	@echo "make build     (re)build the native kernels into .venv"

.venv/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[data,train,study,lightning,transformers,dev]'
	touch $@

build: .venv/.installed

# What the demo needs and no more, unless everything is there already.
.venv/.demo: $(SOURCES)
	@echo "Installing billhook with its extra \"study\" into .venv: torch and charts, about 1 GB."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[study]'
	touch $@

demo: $(if $(wildcard .venv/.installed),build,.venv/.demo)
	@echo "1. One network, dense and pruned: half a minute on a free core."
	OMP_NUM_THREADS=1 $(BIN)/python examples/own_cnn.py
	@echo "2. Prune a large network, or train a small one? LSTMs that write."
	$(BIN)/billhook study run characters
	@echo "More: billhook study run digits, billhook study list, docs/five-minutes.md"

docs: build
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

wheel: build
	bash .ci/wheel

# The runtime without torch. Its environment has numpy alone, and cmake if the machine has none.
RUNTIME := build/runtime
RUNTIME_PYTHON := $(RUNTIME)/venv/bin/python
CMAKE = $(firstword $(wildcard $(BIN)/cmake) $(shell command -v cmake) $(RUNTIME)/venv/bin/cmake)
INSTALL_WHEEL = $(RUNTIME_PYTHON) $(INSTALL) --no-index --no-deps --force-reinstall dist/billhook_runtime-*.whl
C_EXAMPLES := runtime/tests/example.c runtime/tests/open_files.c $(wildcard runtime/examples/*.c)
RUNTIME_SOURCES := $(KERNELS) $(wildcard runtime/*.py runtime/billhook_runtime/* runtime/tests/*.c) $(C_EXAMPLES)
BUILD = $(CMAKE) --build $(1) --parallel $(shell getconf _NPROCESSORS_ONLN)
COMPILE_C = -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -O2

$(RUNTIME)/venv/.installed:
	$(PYTHON) -m venv $(RUNTIME)/venv
	$(RUNTIME_PYTHON) $(INSTALL) -c constraints.txt numpy \
		$(if $(wildcard $(BIN)/cmake)$(shell command -v cmake),,cmake)
	touch $@

$(RUNTIME)/.built: $(RUNTIME_SOURCES) $(RUNTIME)/venv/.installed
	$(CMAKE) -S . -B $(RUNTIME)/make -DBILLHOOK_RUNTIME=ON -DCMAKE_BUILD_TYPE=Release > /dev/null
	$(call BUILD,$(RUNTIME)/make) --target billhook billhook_static > /dev/null
	mkdir -p dist
	cp $(RUNTIME)/make/libbillhook.so $(RUNTIME)/make/libbillhook.a csrc/runtime/billhook.h dist/
	$(RUNTIME_PYTHON) runtime/make_wheel.py dist/libbillhook.so dist
	set -e; for source in $(C_EXAMPLES); do $(CC) $(COMPILE_C) -Idist $$source dist/libbillhook.a \
		-lstdc++ -lm -pthread -o $(RUNTIME)/$$(basename $$source .c); done
	touch $@

runtime: $(RUNTIME)/.built

runtime-test: $(RUNTIME)/.built
	$(CC) -std=c11 -Wall -Wextra -Werror -O2 -shared -fPIC runtime/tests/counting.c -o $(RUNTIME)/counting.so
	$(INSTALL_WHEEL)
	$(RUNTIME_PYTHON) runtime/tests/test_runs.py
	$(RUNTIME_PYTHON) runtime/tests/test_hostile.py
	$(RUNTIME_PYTHON) runtime/tests/test_c.py $(RUNTIME)/example
	$(RUNTIME_PYTHON) runtime/tests/test_stream.py $(RUNTIME)/stream
	LD_PRELOAD=$(RUNTIME)/counting.so $(RUNTIME_PYTHON) runtime/tests/counting.py

# Another processor, by Debian's compiler, in qemu-user: ARCH=aarch64, riscv64 or armhf (32 bits).
ARCH ?= aarch64
TRIPLE := $(if $(filter armhf,$(ARCH)),arm-linux-gnueabihf,$(ARCH)-linux-gnu)
QEMU := qemu-$(if $(filter armhf,$(ARCH)),arm,$(ARCH))
CROSS := build/runtime-$(ARCH)
runtime-cross: $(RUNTIME)/.built
	@if ! command -v $(TRIPLE)-g++ > /dev/null || ! command -v $(QEMU) > /dev/null; then \
		echo "not tested for $(ARCH): apt-get install g++-$(TRIPLE) qemu-user has what it takes"; exit 0; fi; \
	set -e; \
	$(CMAKE) -S . -B $(CROSS) -DBILLHOOK_RUNTIME=ON -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux \
		-DCMAKE_SYSTEM_PROCESSOR=$(ARCH) -DCMAKE_CXX_COMPILER=$(TRIPLE)-g++ > /dev/null; \
	$(call BUILD,$(CROSS)) --target billhook_static > /dev/null; \
	for source in $(C_EXAMPLES); do $(TRIPLE)-gcc $(COMPILE_C) -static -Icsrc/runtime $$source \
		$(CROSS)/libbillhook.a -lstdc++ -lm -pthread -o $(CROSS)/$$(basename $$source .c); done; \
	$(INSTALL_WHEEL); \
	$(RUNTIME_PYTHON) runtime/tests/test_c.py $(QEMU) $(CROSS)/example; \
	$(RUNTIME_PYTHON) runtime/tests/test_hostile.py $(QEMU) $(CROSS)/open_files; \
	$(RUNTIME_PYTHON) runtime/tests/test_stream.py $(QEMU) $(CROSS)/stream

# WebAssembly with SIMD, by Debian's emscripten, and the page that runs a program.
WASM := build/runtime-wasm
WASM_NAMES := open_memory close input_count output_count input output session_open session_close run error
runtime-wasm: $(RUNTIME)/venv/.installed
	@if ! command -v emcmake > /dev/null; then \
		echo "not built for WebAssembly: apt-get install emscripten has what it takes"; exit 0; fi; \
	set -e; \
	emcmake $(CMAKE) -S . -B $(WASM)/make -DBILLHOOK_RUNTIME=ON -DCMAKE_BUILD_TYPE=Release \
		-DCMAKE_CXX_FLAGS="-msimd128 -fexceptions" > /dev/null; \
	$(call BUILD,$(WASM)/make) --target billhook_static > /dev/null; \
	names=_malloc,_free; for name in $(WASM_NAMES); do names=$$names,_billhook_$$name; done; \
	NODE_PATH=/usr/share/nodejs em++ -O2 -fexceptions $(WASM)/make/libbillhook.a -o $(WASM)/billhook.js -sSINGLE_FILE=1 -sALLOW_MEMORY_GROWTH=1 \
		-sMODULARIZE=1 -sEXPORT_NAME=billhookRuntime -sEXPORTED_FUNCTIONS=$$names \
		-sEXPORTED_RUNTIME_METHODS=UTF8ToString,getValue; \
	cp runtime/web/* $(WASM)/; \
	echo "open $(WASM)/index.html"

# Threads that wait do so asleep: two workers share the processor with whatever else runs.
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

# A file at a time: the blocks of a page build on each other.
test: build
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: build
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist loadfile

test-triton: build
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[triton]'
	$(ONE_THREAD) $(BIN)/python -m pytest tests/backends

test-gpu: build
	TRITON_INTERPRET=0 $(BIN)/python -m pytest tests/backends/test_gpu.py tests/backends/test_triton.py \
		tests/matrix/test_precision.py tests/training/test_precision.py
	$(BIN)/python benchmarks/gpu.py

check: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SANITIZED := build/sanitize
SANITIZERS = LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

$(SANITIZED)/.built: $(SOURCES) .venv/.installed
	$(BIN)/cmake -S . -B $(SANITIZED) -DBILLHOOK_SANITIZE=ON -DBILLHOOK_RUNTIME=ON -DCMAKE_BUILD_TYPE=Debug > /dev/null
	$(call BUILD,$(SANITIZED))
	touch $@

sanitize: $(SANITIZED)/.built
	$(SANITIZERS) $(BIN)/python tests/sanitize.py $(SANITIZED)/libbillhook_kernels.so

# A quarter of the time each; what fails is kept in build/fuzz. `python -m tests.fuzz --help` has more.
SECONDS ?= 600
SEED ?= 0
FUZZ = OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz
fuzz: build $(RUNTIME)/.built
	$(FUZZ) coded --seconds $$(($(SECONDS) / 4)) --seed $(SEED)
	$(FUZZ) programs --seconds $$(($(SECONDS) / 4)) --seed $(SEED)
	$(FUZZ) layers --seconds $$(($(SECONDS) / 4)) --seed $(SEED)
	$(FUZZ) steps --seconds $$(($(SECONDS) / 4)) --seed $(SEED)

# The same under AddressSanitizer and UBSan, which is some ten times slower.
fuzz-sanitize: $(SANITIZED)/.built
	$(SANITIZERS) $(FUZZ) coded --seconds $$(($(SECONDS) / 4)) --seed $(SEED) \
		--library $(SANITIZED)/libbillhook_kernels.so
	BILLHOOK_RUNTIME_LIBRARY=$(SANITIZED)/libbillhook.so \
		$(SANITIZERS) $(FUZZ) programs --seconds $$(($(SECONDS) / 4)) --seed $(SEED) \
		--library $(SANITIZED)/libbillhook_kernels.so
	$(SANITIZERS) $(FUZZ) layers --seconds $$(($(SECONDS) / 4)) --seed $(SEED) \
		--library $(SANITIZED)/libbillhook_kernels.so
	BILLHOOK_RUNTIME_LIBRARY=$(SANITIZED)/libbillhook.so \
		$(SANITIZERS) $(FUZZ) steps --seconds $$(($(SECONDS) / 4)) --seed $(SEED) \
		--library $(SANITIZED)/libbillhook_kernels.so
