#include "program.h"

#include <algorithm>

#include "isa.h"
#include "json.h"
#include "kinds.h"
#include "packer.h"
#include "refusal.h"
#include "u8_kinds.h"

namespace billhook {

namespace {

constexpr size_t kMaxSteps = 8192;
constexpr int64_t kMostAtOnce = 4096;

// The plan's instruction set, or this machine's best one if it does not run that.
int64_t instruction_set(const std::string& name, bool int8) {
  for (int64_t isa = 0; isa < kIsaCount; ++isa)
    if (name == name_of(isa) && supports(isa) && has_kernels(isa, int8)) return isa;
  return best_isa(int8);
}

bool in_8_bits(const Value& plan) {
  if (!plan.has("precision")) return false;
  const std::string precision = plan["precision"].text();
  if (precision != "fp32" && precision != "int8")
    refuse("its precision is '" + precision + "', which this runtime does not know", BILLHOOK_UNSUPPORTED);
  return precision == "int8";
}

// The "run" of a program's text, if this runtime can run it.
Value runnable(const Value& text) {
  const std::string mode = text["plan"]["mode"].text();
  if (mode != "network")
    refuse("it is not a whole network, so that it needs its Python code: make one with "
           "billhook.compile(..., standalone=True)",
           BILLHOOK_UNSUPPORTED);
  if (text["version"].number(0, kMost) != 2)
    refuse("it is a program of another version than 2: open it with billhook.load_compiled and "
           "save it again",
           BILLHOOK_UNSUPPORTED);
  return text["run"];
}

std::vector<Value> steps_of(const Value& run) {
  std::vector<Value> steps = run["steps"].items();
  require(steps.size() <= kMaxSteps, "it has more steps than any program");
  return steps;
}

}  // namespace

Program::Program(const Container& file) {
  if (!file.has("program"))
    refuse("it holds tensors and no program: billhook.save(billhook.compile(...), path) writes programs");
  const Tensor& program = file.tensor("program");
  const std::vector<uint8_t> raw = file.bytes(program);
  const Json json({reinterpret_cast<const char*>(raw.data()), raw.size()});
  const Value run = runnable(json.root()), plan = json.root()["plan"];
  const bool int8 = in_8_bits(plan);
  isa_ = instruction_set(plan["isa"].text(), int8);
  inputs_ = read_inputs(json.root()["inputs"]);
  outputs_ = read_outputs(json.root()["outputs"]);
  if (int8) at_once_ = run["at_once"].number(1, kMostAtOnce);
  int64_t input_bytes = 0;
  for (const Port& port : inputs_) input_bytes += at_once_ * port.bytes;
  const Limits limits = Limits::of(file.size(), input_bytes);
  const int64_t workspace = run["workspace"].number(0, kMost);
  workspace_ = int8 ? (workspace + 3) / 4 : workspace;
  require(workspace_ <= limits.workspace,
          "it takes a larger workspace than the sizes of the file and of its inputs allow");
  if (int8)
    read_bytes(file, run, limits);
  else
    read_floats(file, run, limits);
}

void Program::read_floats(const Container& file, const Value& run, const Limits& limits) {
  constants_size_ = run["constants"]["size"].number(0, kMost);
  std::vector<Buffer> buffers{{workspace_}, {constants_size_, kFloats, false}};
  for (const Port& port : inputs_) buffers.push_back({port.elements, port.number, false});
  for (const Port& port : outputs_) buffers.push_back({port.elements});
  Checker checker(file, std::move(buffers), limits, isa_);
  read_constants(file, run["constants"]["at"], checker);
  for (const Value& step : steps_of(run)) {
    plans_.push_back(read_plan(step));
    checker.check(plans_.back());
  }
  note(checker);
}

// Buffers of bytes: the workspace, the input, the output.
void Program::read_bytes(const Container& file, const Value& run, const Limits& limits) {
  require(inputs_.size() == 1 && outputs_.size() == 1 && inputs_[0].number == kFloats,
          "a program in 8 bits has other inputs or outputs than one of F32");
  Checker checker(file,
                  {{run["workspace"].number(0, kMost)},
                   {at_once_ * inputs_[0].bytes, kFloats, false},
                   {at_once_ * outputs_[0].bytes}},
                  limits, isa_);
  for (const Value& step : steps_of(run)) {
    u8_plans_.push_back(read_u8_plan(step));
    const U8Plan& plan = u8_plans_.back();
    const bool any = plan.kind->on_pixels && plan.step.pixels == at_once_ && plan.step.gather == 0;
    require(at_once_ == 1 || any, "a step does not run on fewer samples than are planned");
    checker.check(u8_plans_.back());
  }
  note(checker);
}

void Program::note(const Checker& checker) {
  needs_ = checker.needs;
  needs_.session = 4 * workspace_;
  for (int slot = 0; slot < kSlots; ++slot) {
    scratch_[slot] = checker.scratch[slot];
    needs_.thread += 4 * scratch_[slot];
  }
  needs_.session += needs_.thread;
  require(needs_.session <= kMostBytes, "a session takes more memory than this machine can address");
}

// The numbers that are known lie in a buffer of their own.
void Program::read_constants(const Container& file, const Value& at, Checker& checker) {
  checker.opening(constants_size_);
  checker.take(4 * Whole(constants_size_), 0);
  for (const auto& [name, start] : at.members()) {
    const Tensor& tensor = file.tensor(name);
    require(tensor.dtype == "F32" && tensor.elements() <= constants_size_,
            "a constant does not fit its buffer");
    const int64_t stored = tensor.stored();
    if (!tensor.plain)  // decoded beside its entry
      checker.take(0, tensor.end - tensor.begin + 4 * Whole(stored) +
                          tensor.elements() / 8 + 1);
    constants_at_.emplace_back(name, start.number(0, constants_size_ - tensor.elements()));
  }
}

void Program::pack(const Container& file) {
  Packer packer(file, isa_, held_);
  constants_ = packer.take<float>(constants_size_);
  for (const auto& [name, start] : constants_at_)
    file.floats(file.tensor(name), constants_ + start);
  const auto packed = [&](auto& plans, auto& steps) {
    steps.reserve(plans.size());
    for (auto& plan : plans) {
      if (plan.kind->pack != nullptr) plan.kind->pack(packer, plan);
      steps.push_back(plan.step);
    }
    plans.clear();
    plans.shrink_to_fit();
  };
  packed(plans_, steps_);
  packed(u8_plans_, u8_steps_);
}

bool Program::run(float* const* bases, int64_t samples, int64_t threads) const {
  if (u8_steps_.empty()) {
    run_steps(steps_.data(), static_cast<int64_t>(steps_.size()), bases, threads, isa_);
    return true;
  }
  uint8_t* bytes[3];  // the second buffer of bases has the constants
  for (int i = 0; i < 3; ++i) bytes[i] = reinterpret_cast<uint8_t*>(bases[i == 0 ? 0 : i + 1]);
  return run_u8_steps(u8_steps_.data(), static_cast<int64_t>(u8_steps_.size()), bytes,
                      at_once_ == 1 ? 0 : samples, threads, isa_);
}

}  // namespace billhook
