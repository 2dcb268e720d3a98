// The C functions of billhook.h: nothing is thrown across them.
#include "billhook.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

#include "f32_panel.h"
#include "isa.h"
#include "pool.h"
#include "program.h"
#include "refusal.h"

#ifndef BILLHOOK_RELEASE
#define BILLHOOK_RELEASE "0"
#endif

struct billhook_program {
  billhook::Program program;
};

namespace {

constexpr size_t kCacheLine = 64;

struct AlignedDelete {
  void operator()(float* start) const { ::operator delete(start, std::align_val_t{kCacheLine}); }
};
// Each region has memory of its own, so that a sanitizer sees where it ends.
using Floats = std::unique_ptr<float[], AlignedDelete>;

Floats zeros(int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(float);
  Floats made(static_cast<float*>(::operator new(bytes, std::align_val_t{kCacheLine})));
  std::fill(made.get(), made.get() + count, 0.0f);
  return made;
}

}  // namespace

struct billhook_session {
  const billhook::Program* program;
  Floats workspace;
  std::vector<Floats> scratch;  // each thread's, slot by slot
  std::vector<float*> bases;    // of the buffers of a run
  std::vector<billhook::Lent> lent;
  std::unique_ptr<billhook::Pool> pool;  // last: its threads end before what they use
};

namespace {

using billhook::Container;
using billhook::Program;
using billhook::Refusal;

constexpr size_t kMaxThreads = 256;
constexpr size_t kFirstInput = 2;  // buffers: the workspace, the constants, the inputs, the outputs

thread_local char error_text[512] = "";

int fail(int status, const char* why) {
  std::snprintf(error_text, sizeof error_text, "%s", why);
  for (char* c = error_text; *c != 0; ++c)  // a file's names may hold anything
    if (static_cast<unsigned char>(*c) < 0x20 || *c == 0x7f) *c = '?';
  return status;
}

// Runs the body of a function of the interface; what it throws becomes a status and a text.
template <typename Body>
int guarded(const Body& body) {
  try {
    body();
    return BILLHOOK_OK;
  } catch (const Refusal& refusal) {
    return fail(refusal.status, refusal.why.c_str());
  } catch (const std::bad_alloc&) {
    return fail(BILLHOOK_NO_MEMORY, "there is not enough memory");
  } catch (const std::length_error&) {
    return fail(BILLHOOK_NO_MEMORY, "there is not enough memory");
  } catch (const std::out_of_range& index) {  // of an input's numbers
    return fail(BILLHOOK_BAD_CALL, index.what());
  } catch (const std::exception& other) {
    return fail(BILLHOOK_NO_MEMORY, other.what());
  } catch (...) {
    return fail(BILLHOOK_BAD_CALL, "something unknown went wrong");
  }
}

void need(bool holds, const char* why) {
  if (!holds) billhook::refuse(why, BILLHOOK_BAD_CALL);
}

void measure(std::unique_ptr<billhook::Source> source, billhook_memory* memory) {
  need(memory != nullptr, "billhook_measure has no place for its result");
  const Container file(std::move(source));
  const billhook::Needs needs = Program(file).needs();
  *memory = {needs.weights, needs.packing, needs.session, needs.thread};
}

void open(std::unique_ptr<billhook::Source> source, billhook_program** program) {
  const Container file(std::move(source));
  auto opened = std::make_unique<billhook_program>(billhook_program{Program(file)});
  opened->program.pack(file);
  *program = opened.release();
}

int describe(const std::vector<billhook::Port>& ports, size_t index, billhook_tensor* tensor) {
  return guarded([&] {
    need(tensor != nullptr, "there is no place for the description of a tensor");
    if (index >= ports.size())
      billhook::refuse("there is no input or output " + std::to_string(index) + ": there are " +
                           std::to_string(ports.size()) + ", counted from 0",
                       BILLHOOK_BAD_CALL);
    const billhook::Port& port = ports[index];
    *tensor = {port.name.c_str(), port.dtype.c_str(), port.shape.size(), {}, port.elements, port.bytes,
               static_cast<size_t>(port.axis), port.merged ? 1 : 0};
    for (size_t i = 0; i < port.shape.size(); ++i) tensor->shape[i] = port.shape[i];
  });
}

int find(const std::vector<billhook::Port>& ports, const char* what, const char* name, size_t* index) {
  return guarded([&] {
    need(name != nullptr && index != nullptr, "there is no name, or no place for its index");
    std::string known;
    for (size_t i = 0; i < ports.size(); ++i) {
      if (ports[i].name == name) {
        *index = i;
        return;
      }
      known += (i == 0 ? "" : ", ") + ports[i].name;
    }
    billhook::refuse("the program has no " + std::string(what) + " '" + name + "': it has " + known,
                     BILLHOOK_BAD_CALL);
  });
}

void open_session(const Program& program, size_t threads, billhook_session** session) {
  auto made = std::make_unique<billhook_session>();
  made->program = &program;
  made->bases.resize(kFirstInput + program.inputs().size() + program.outputs().size());
  made->workspace = zeros(program.workspace());
  for (size_t t = 0; t < threads; ++t) {
    billhook::Lent lent{};
    for (int slot = 0; slot < billhook::kSlots; ++slot) {
      lent.floats[slot] = program.scratch(slot);
      if (lent.floats[slot] == 0) continue;
      made->scratch.push_back(zeros(lent.floats[slot]));
      lent.start[slot] = made->scratch.back().get();
    }
    made->lent.push_back(lent);
  }
  if (threads > 1) made->pool = std::make_unique<billhook::Pool>(made->lent);
  *session = made.release();
}

// Where sample s of an input or output begins. Steps know what numbers lie there.
float* sample(void* start, const billhook::Port& port, size_t s) {
  if (start == nullptr)
    billhook::refuse("the array of " + port.name + " is a null pointer", BILLHOOK_BAD_CALL);
  return reinterpret_cast<float*>(static_cast<char*>(start) + s * static_cast<size_t>(port.bytes));
}

}  // namespace

int billhook_measure(const char* path, billhook_memory* memory) {
  return guarded([&] {
    need(path != nullptr, "there is no path");
    measure(billhook::open_file(path), memory);
  });
}

int billhook_measure_memory(const void* data, size_t size, billhook_memory* memory) {
  return guarded([&] {
    need(data != nullptr, "there is no data");
    measure(billhook::open_bytes(data, size), memory);
  });
}

int billhook_open(const char* path, billhook_program** program) {
  return guarded([&] {
    need(path != nullptr && program != nullptr, "there is no path, or no place for the program");
    *program = nullptr;
    open(billhook::open_file(path), program);
  });
}

int billhook_open_memory(const void* data, size_t size, billhook_program** program) {
  return guarded([&] {
    need(data != nullptr && program != nullptr, "there is no data, or no place for the program");
    *program = nullptr;
    open(billhook::open_bytes(data, size), program);
  });
}

void billhook_close(billhook_program* program) { delete program; }

size_t billhook_input_count(const billhook_program* program) {
  return program == nullptr ? 0 : program->program.inputs().size();
}

size_t billhook_output_count(const billhook_program* program) {
  return program == nullptr ? 0 : program->program.outputs().size();
}

int billhook_input(const billhook_program* program, size_t index, billhook_tensor* tensor) {
  if (program == nullptr) return fail(BILLHOOK_BAD_CALL, "there is no program");
  return describe(program->program.inputs(), index, tensor);
}

int billhook_output(const billhook_program* program, size_t index, billhook_tensor* tensor) {
  if (program == nullptr) return fail(BILLHOOK_BAD_CALL, "there is no program");
  return describe(program->program.outputs(), index, tensor);
}

int billhook_find_input(const billhook_program* program, const char* name, size_t* index) {
  if (program == nullptr) return fail(BILLHOOK_BAD_CALL, "there is no program");
  return find(program->program.inputs(), "input", name, index);
}

int billhook_find_output(const billhook_program* program, const char* name, size_t* index) {
  if (program == nullptr) return fail(BILLHOOK_BAD_CALL, "there is no program");
  return find(program->program.outputs(), "output", name, index);
}

const char* billhook_instruction_set(const billhook_program* program) {
  return program == nullptr ? "" : billhook::name_of(program->program.isa());
}

int billhook_session_open(const billhook_program* program, size_t threads,
                          billhook_session** session) {
  return guarded([&] {
    need(program != nullptr && session != nullptr, "there is no program, or no place for the session");
    need(threads >= 1 && threads <= kMaxThreads, "a session runs on 1 to 256 threads");
    *session = nullptr;
    open_session(program->program, threads, session);
  });
}

void billhook_session_close(billhook_session* session) { delete session; }

int billhook_run(billhook_session* session, const void* const* inputs, float* const* outputs,
                 size_t samples) {
  if (session == nullptr || inputs == nullptr || outputs == nullptr)
    return fail(BILLHOOK_BAD_CALL, "there is no session, or there are no inputs or outputs");
  const Program& program = *session->program;
  float** bases = session->bases.data();
  bases[0] = session->workspace.get();
  bases[1] = program.constants();
  billhook::lend(&session->lent[0]);
  billhook::Pool::use(session->pool.get());
  const int status = guarded([&] {
    const auto at_once = static_cast<size_t>(program.at_once());
    for (size_t s = 0; s < samples; s += at_once) {
      float** next = bases + kFirstInput;
      for (size_t i = 0; i < program.inputs().size(); ++i)
        *next++ = sample(const_cast<void*>(inputs[i]), program.inputs()[i], s);
      for (size_t i = 0; i < program.outputs().size(); ++i)
        *next++ = sample(outputs[i], program.outputs()[i], s);
      const auto count = static_cast<int64_t>(std::min(at_once, samples - s));
      need(program.run(bases, count, static_cast<int64_t>(session->lent.size())),
           "the input, or a value of fp32 within the network, is NaN or infinite: a program in 8 bits "
           "cannot represent it");
    }
  });
  billhook::Pool::use(nullptr);
  billhook::lend(nullptr);
  return status;
}

const char* billhook_error(void) { return error_text; }

const char* billhook_version(void) { return BILLHOOK_RELEASE; }
