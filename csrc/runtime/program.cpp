#include "program.h"

#include <algorithm>

#include "isa.h"
#include "json.h"
#include "kinds.h"
#include "packer.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr size_t kMaxSteps = 8192;

// The plan's instruction set, or this machine's best one if it does not run that.
int64_t instruction_set(const std::string& name) {
  for (int64_t isa = 0; isa < kIsaCount; ++isa)
    if (name == name_of(isa) && supports(isa)) return isa;
  return best_isa();
}

// The "run" of a program's text, if this runtime can run it.
Value runnable(const Value& text) {
  const Value plan = text["plan"];
  const std::string mode = plan["mode"].text();
  if (mode != "network")
    refuse("it is not a whole network, so that it needs its Python code: make one with "
           "billhook.compile(..., standalone=True)",
           BILLHOOK_UNSUPPORTED);
  if (plan.has("precision") && plan["precision"].text() != "fp32")
    refuse("it is a program in 8 bits, which this runtime does not run: compile it with "
           "precision=\"fp32\"",
           BILLHOOK_UNSUPPORTED);
  if (text["version"].number(0, kMost) != 2)
    refuse("it is a program of another version than 2: open it with billhook.load_compiled and "
           "save it again",
           BILLHOOK_UNSUPPORTED);
  return text["run"];
}

}  // namespace

Program::Program(const Container& file) {
  if (!file.has("program"))
    refuse("it holds tensors and no program: billhook.save(billhook.compile(...), path) writes programs");
  const Tensor& program = file.tensor("program");
  const std::vector<uint8_t> raw = file.bytes(program);
  const Json json({reinterpret_cast<const char*>(raw.data()), raw.size()});
  const Value run = runnable(json.root());
  isa_ = instruction_set(json.root()["plan"]["isa"].text());
  inputs_ = read_inputs(json.root()["inputs"]);
  outputs_ = read_outputs(json.root()["outputs"]);
  workspace_ = run["workspace"].number(0, kMost);
  constants_size_ = run["constants"]["size"].number(0, kMost);
  std::vector<Buffer> buffers{{workspace_}, {constants_size_, kFloats, false}};
  int64_t input_bytes = 0;
  for (const Port& port : inputs_) {
    buffers.push_back({port.elements, port.number, false});
    input_bytes += port.bytes;
  }
  for (const Port& port : outputs_) buffers.push_back({port.elements});
  const Limits limits = Limits::of(file.size(), input_bytes);
  require(workspace_ <= limits.workspace,
          "it takes a larger workspace than the sizes of the file and of its inputs allow");
  Checker checker(file, std::move(buffers), limits, isa_);
  read_constants(file, run["constants"]["at"], checker);
  const std::vector<Value> steps = run["steps"].items();
  require(steps.size() <= kMaxSteps, "it has more steps than any program");
  for (const Value& step : steps) {
    plans_.push_back(read_plan(step));
    checker.check(plans_.back());
  }
  needs_ = checker.needs;
  needs_.session = 4 * workspace_;
  for (int slot = 0; slot < kSlots; ++slot) {
    scratch_[slot] = checker.scratch[slot];
    needs_.thread += 4 * scratch_[slot];
  }
  needs_.session += needs_.thread;
}

// The numbers that are known lie in a buffer of their own.
void Program::read_constants(const Container& file, const Value& at, Checker& checker) {
  checker.opening(constants_size_);
  checker.take(4 * static_cast<__int128>(constants_size_), 0);
  for (const auto& [name, start] : at.members()) {
    const Tensor& tensor = file.tensor(name);
    require(tensor.dtype == "F32" && tensor.elements() <= constants_size_,
            "a constant does not fit its buffer");
    const int64_t stored = tensor.stored();
    if (!tensor.plain)  // decoded beside its entry
      checker.take(0, tensor.end - tensor.begin + 4 * static_cast<__int128>(stored) +
                          tensor.elements() / 8 + 1);
    constants_at_.emplace_back(name, start.number(0, constants_size_ - tensor.elements()));
  }
}

void Program::pack(const Container& file) {
  Packer packer(file, isa_, held_);
  constants_ = packer.take<float>(constants_size_);
  for (const auto& [name, start] : constants_at_)
    file.floats(file.tensor(name), constants_ + start);
  steps_.reserve(plans_.size());
  for (Plan& plan : plans_) {
    if (plan.kind->pack != nullptr) plan.kind->pack(packer, plan);
    steps_.push_back(plan.step);
  }
  plans_.clear();
  plans_.shrink_to_fit();
}

}  // namespace billhook
