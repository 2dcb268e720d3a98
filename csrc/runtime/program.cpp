#include "program.h"

#include <algorithm>
#include <numeric>

#include "checks.h"
#include "f32_pointwise.h"
#include "isa.h"
#include "json.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr size_t kMaxPorts = 8, kMaxSteps = 8192, kMaxDimensions = BILLHOOK_MAX_DIMENSIONS;
constexpr std::string_view kOps[] = {"copy",      "spmm", "max_pool",  "average_pool", "mean",
                                     "add",       "linear", "depthwise", "rearrange",  "fill",
                                     "pointwise", "binary"};
constexpr std::string_view kFunctionNames[] = {
    "affine", "clamp",     "leaky_relu", "hardswish", "hardsigmoid", "sigmoid", "silu",
    "tanh",   "gelu",      "gelu_tanh",  "exp",       "elu",         "abs",     "sqrt",
    "reciprocal", "mish",  "log",        "equal",     "choose"};
constexpr std::string_view kBinaryNames[] = {"add",     "sub",   "mul",         "div", "maximum",
                                             "minimum", "prelu", "masked_fill", "lt",  "le",
                                             "eq",      "rsub",  "rdiv"};
static_assert(std::size(kFunctionNames) == kFunctions && std::size(kBinaryNames) == kBinaryFunctions);
constexpr std::string_view kActivations[] = {"none", "relu", "relu6"};

struct Number {
  std::string_view name;
  int64_t Step::*field;
};
constexpr Number kNumbers[] = {{"channels", &Step::channels},
                               {"in_height", &Step::in_height},
                               {"in_width", &Step::in_width},
                               {"height", &Step::height},
                               {"width", &Step::width},
                               {"kernel_height", &Step::kernel_height},
                               {"kernel_width", &Step::kernel_width},
                               {"stride_height", &Step::stride_height},
                               {"stride_width", &Step::stride_width},
                               {"pad_top", &Step::pad_top},
                               {"pad_left", &Step::pad_left},
                               {"count_padding", &Step::count_padding},
                               {"dims", &Step::dims},
                               {"pixels", &Step::pixels},
                               {"vectors", &Step::vectors},
                               {"packed", &Step::packed}};

template <size_t N>
int64_t place_of(const std::string_view (&names)[N], const std::string& name, const char* what) {
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names))
    refuse("a step has the " + std::string(what) + " '" + name +
               "', which this runtime does not know: a newer one may",
           BILLHOOK_UNSUPPORTED);
  return found - std::begin(names);
}

std::vector<int64_t> numbers(const Value& value, size_t count) {
  std::vector<int64_t> result;
  for (const Value& item : value.items()) result.push_back(item.number(0, kMost));
  require(result.size() == count, "its JSON has a list of another length than is meant");
  return result;
}

View read_view(const Value& value) {
  const std::vector<int64_t> n = numbers(value, 4);
  return {n[0], n[1], n[2], n[3]};
}

Taps read_taps(const Value& value) {
  const auto pair = [&](std::string_view name) { return numbers(value[name], 2); };
  Taps taps{};
  const auto stride = pair("stride"), dilation = pair("dilation"), padding = pair("padding");
  taps.stride_height = stride[0], taps.stride_width = stride[1];
  taps.dilation_height = dilation[0], taps.dilation_width = dilation[1];
  taps.pad_top = padding[0], taps.pad_left = padding[1];
  taps.groups = value["groups"].number(1, kMost);
  taps.plane = value["plane"].number(0, kMost);
  taps.pitch = value["pitch"].number(0, kMost);
  return taps;
}

// Whether a member belongs to a weight; then it is read.
bool read_weight(Plan::Weight& weight, const std::string& name, const Value& value) {
  if (name == "weight") {
    weight.tensor = value.text();
    weight.present = true;
  } else if (name == "bias") {
    weight.bias = value.text();
  } else if (name == "activation") {
    weight.activation = place_of(kActivations, value.text(), "activation");
  } else if (name == "taps") {
    weight.taps = read_taps(value);
    weight.has_taps = true;
  } else {
    return false;
  }
  return true;
}

Plan read_step(const Value& value) {
  Plan plan;
  std::string function;
  plan.step.x = plan.step.y = plan.step.addend = plan.step.extra = plan.step.mask = {-1, 0, 0, 0};
  plan.step.op = -1;
  for (const auto& [name, part] : value.members()) {
    const auto number = std::find_if(std::begin(kNumbers), std::end(kNumbers),
                                     [&](const Number& each) { return each.name == name; });
    if (number != std::end(kNumbers)) {
      plan.step.*(number->field) = part.number(0, kMost);
    } else if (name == "op") {
      plan.step.op = place_of(kOps, part.text(), "operation");
    } else if (name == "function") {
      function = part.text();
    } else if (name == "size" || name == "from" || name == "to") {
      const std::vector<int64_t> own = numbers(part, kMaxDims);
      std::copy(own.begin(), own.end(),
                name == "size" ? plan.step.size : name == "from" ? plan.step.from : plan.step.to);
    } else if (name == "parameters") {
      const std::vector<Value> own = part.items();
      require(own.size() == 2, "a step has another number of parameters than two");
      for (size_t i = 0; i < 2; ++i) plan.step.parameters[i] = own[i].real();
    } else if (name == "x" || name == "y" || name == "addend") {
      (name == "x" ? plan.step.x : name == "y" ? plan.step.y : plan.step.addend) = read_view(part);
    } else if (name == "keep") {
      const std::vector<int64_t> keep = numbers(part, 3);
      std::copy(keep.begin(), keep.end(), plan.keep);
    } else if (name == "fill") {
      for (const auto& [key, each] : part.members())
        require(read_weight(plan.fill, key, each), "a step fills panels by something unknown");
    } else if (!read_weight(plan.weight, name, part)) {
      refuse("a step has the setting '" + name + "', which this runtime does not know: a newer one may",
             BILLHOOK_UNSUPPORTED);
    }
  }
  require(plan.step.op >= 0, "a step does not say what it does");
  plan.step.activation = plan.weight.activation;
  if (plan.step.op == kPointwise)
    plan.step.function = place_of(kFunctionNames, function, "function");
  else if (plan.step.op == kBinary)
    plan.step.function = place_of(kBinaryNames, function, "function");
  else
    require(function.empty(), "a step has a function that it does not compute");
  return plan;
}

std::vector<Port> read_ports(const Value& value, bool inputs) {
  std::vector<Port> ports;
  for (const Value& each : value.items()) {
    Port port{each["name"].text(), inputs ? each["dtype"].text() : "F32", {}, 1};
    for (const Value& side : each["shape"].items()) port.shape.push_back(side.number(1, kMost));
    for (const int64_t side : port.shape) {
      require(port.elements <= kMost / side, "an input or output has more elements than are counted");
      port.elements *= side;
    }
    if (port.shape.size() > kMaxDimensions || port.dtype != "F32")
      refuse("its input or output " + port.name + " is " + port.dtype + " of " +
                 std::to_string(port.shape.size()) +
                 " dimensions, and this runtime takes F32 of up to 8: run it with "
                 "billhook.load_compiled",
             BILLHOOK_UNSUPPORTED);
    ports.push_back(std::move(port));
  }
  require(!ports.empty() && ports.size() <= kMaxPorts, "it has no inputs or outputs, or too many");
  return ports;
}

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
  const std::vector<uint8_t> raw = file.bytes(file.tensor("program"));
  const Json json({reinterpret_cast<const char*>(raw.data()), raw.size()});
  const Value run = runnable(json.root());
  isa_ = instruction_set(json.root()["plan"]["isa"].text());
  inputs_ = read_ports(json.root()["inputs"], true);
  outputs_ = read_ports(json.root()["outputs"], false);
  workspace_ = run["workspace"].number(0, kMost);
  std::vector<int64_t> buffers{workspace_};
  read_constants(file, run["constants"]);
  buffers.push_back(constants_size_);
  for (const auto* ports : {&inputs_, &outputs_})
    for (const Port& port : *ports) buffers.push_back(port.elements);
  const int64_t input_floats = std::accumulate(
      inputs_.begin(), inputs_.end(), int64_t{0},
      [](int64_t sum, const Port& port) { return sum + port.elements; });
  const Limits limits = Limits::of(file.size(), 4 * input_floats);
  require(workspace_ <= limits.workspace,
          "it takes a larger workspace than the sizes of the file and of its inputs allow");
  const std::vector<Value> steps = run["steps"].items();
  require(steps.size() <= kMaxSteps, "it has more steps than any program");
  Checker checker(file, std::move(buffers), inputs_.size() + 1, isa_);
  for (const Value& step : steps) {
    plans_.push_back(read_step(step));
    checker.check(plans_.back());
    checker.finish(limits);
  }
  needs_ = checker.needs;
  needs_.weights += 4 * constants_size_;
  needs_.session = 4 * workspace_;
  for (int slot = 0; slot < kSlots; ++slot) {
    scratch_[slot] = checker.scratch[slot] == 0 ? 0 : checker.scratch[slot] + 16;
    needs_.thread += 4 * scratch_[slot];
  }
  needs_.session += needs_.thread;
}

// The numbers that are known lie in a buffer of their own.
void Program::read_constants(const Container& file, const Value& value) {
  constants_size_ = value["size"].number(0, kMost);
  require(constants_size_ <= Limits::of(file.size(), 0).opening,
          "its constants take more memory than the size of the file allows");
  for (const auto& [name, start] : value["at"].members()) {
    const Tensor& tensor = file.tensor(name);
    require(tensor.dtype == "F32" && tensor.elements() <= constants_size_,
            "a constant does not fit its buffer");
    tensor.stored();
    constants_at_.emplace_back(name, start.number(0, constants_size_ - tensor.elements()));
  }
}

template <typename T>
T* Program::take(int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * sizeof(T);
  held_.emplace_back((bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t) + 1);
  return reinterpret_cast<T*>(held_.back().data());
}

namespace {

// The nonzeros of a weight as CSR, in memory of its own.
struct OwnCsr {
  std::vector<float> value;
  std::vector<int32_t> row_ptr, wide;
  std::vector<uint16_t> narrow;
  Csr csr{};
  int64_t nonzeros = 0;
};

OwnCsr read_csr(const Container& file, const std::string& name) {
  const Tensor& tensor = file.tensor(name);
  const int64_t rows = tensor.shape[0], columns = tensor.elements() / rows;
  Nonzeros<float> found = file.nonzeros(tensor);
  OwnCsr own;
  own.value = std::move(found.values);
  own.nonzeros = static_cast<int64_t>(own.value.size());
  own.row_ptr.resize(static_cast<size_t>(rows) + 1);
  const bool narrow = columns < 1 << 16;
  if (narrow)
    own.narrow.resize(own.value.size());
  else
    own.wide.resize(own.value.size());
  const bool sound = rows_of_mask(found.mask.data(), rows, columns, own.nonzeros, own.row_ptr.data(),
                                  narrow ? own.narrow.data() : nullptr, own.wide.data());
  require(sound, "the mask of a weight does not fit its values");
  own.csr = {rows, columns, own.row_ptr.data(), narrow ? own.narrow.data() : nullptr,
             own.wide.data(), own.value.data()};
  return own;
}

}  // namespace

const float* Program::bias(const Container& file, const Plan::Weight& weight) {
  if (weight.bias.empty()) return nullptr;
  const std::vector<float> values = file.floats(file.tensor(weight.bias));
  float* own = take<float>(static_cast<int64_t>(values.size()));
  std::copy(values.begin(), values.end(), own);
  return own;
}

void Program::pack_lanes(const Container& file, Plan& plan) {
  const OwnCsr own = read_csr(file, plan.weight.tensor);
  const Csr& csr = own.csr;
  const bool shared = shares_columns(csr);
  const int64_t groups = (csr.rows + kGroup - 1) / kGroup;
  auto* group_ptr = take<int32_t>(groups + 1);
  auto* row = take<int32_t>(groups * kGroup);
  const int64_t steps = lane_steps(csr, shared, group_ptr, row);
  auto* column = take<uint16_t>(shared ? steps : steps * kGroup);
  auto* value = take<float>(steps * kGroup);
  fill_lanes(csr, shared, group_ptr, row, column, value);
  plan.step.lanes = {csr.rows, csr.columns, groups, plan.weight.activation, shared,
                     group_ptr, column, value, row, bias(file, plan.weight)};
}

void Program::pack_panels(const Container& file, Plan& plan) {
  const OwnCsr own = read_csr(file, plan.weight.tensor);
  const Csr& csr = own.csr;
  const bool shared = shares_columns(csr);
  const int64_t group = shared ? kGroup : 1;
  const ColumnBlocks cut =
      column_blocks(csr.rows, csr.columns, own.nonzeros, 8 * plan.step.vectors, isa_);
  auto* blocks = take<SparseRows>(cut.count);
  int64_t count = 0;
  for (int64_t first = 0; first < csr.columns; first += cut.columns) {
    const int64_t last = std::min(first + cut.columns, csr.columns);
    const int64_t nonzeros = nonzeros_between(csr, first, last);
    auto* row_ptr = take<int32_t>(csr.rows / group + 1);
    auto* row = shared ? nullptr : take<int32_t>(csr.rows);
    auto* column = take<uint16_t>(nonzeros / group);
    auto* value = take<float>(nonzeros);
    fill_block(csr, first, last, shared, row_ptr, row, column, value);
    blocks[count++] = {csr.rows, kNone, group, first, row_ptr, row, nullptr, column, value, nullptr};
  }
  blocks[0].bias = bias(file, plan.weight);
  blocks[count - 1].activation = plan.weight.activation;
  plan.step.rows = {blocks, count};
}

SparseRows Program::pack_planes(const Container& file, const Plan::Weight& weight) {
  const OwnCsr own = read_csr(file, weight.tensor);
  const bool shared = shares_offsets(own.csr, weight.taps);
  const int64_t group = shared ? kGroup : 1;
  std::vector<int32_t> offsets(static_cast<size_t>(own.csr.columns));
  tap_offsets(weight.taps, offsets.data());
  auto* row_ptr = take<int32_t>(own.csr.rows / group + 1);
  auto* offset = take<int32_t>(own.nonzeros / group);
  auto* value = take<float>(own.nonzeros);
  fill_planes(own.csr, weight.taps, offsets.data(), shared, row_ptr, offset, value);
  return {own.csr.rows, weight.activation, group, 0, row_ptr, nullptr, offset, nullptr, value,
          bias(file, weight)};
}

void Program::pack_depthwise(const Container& file, Plan& plan) {
  const OwnCsr own = read_csr(file, plan.weight.tensor);
  auto* row_ptr = take<int32_t>(own.csr.rows + 1);
  auto* offset = take<int32_t>(own.nonzeros);
  auto* value = take<float>(own.nonzeros);
  std::copy(own.row_ptr.begin(), own.row_ptr.end(), row_ptr);
  std::copy(own.value.begin(), own.value.end(), value);
  for (int64_t j = 0; j < own.nonzeros; ++j) offset[j] = static_cast<int32_t>(own.csr.column(j));
  auto* rows = take<SparseRows>(1);
  *rows = {own.csr.rows, plan.weight.activation, 1, 0, row_ptr, nullptr, offset, nullptr, value,
           bias(file, plan.weight)};
  plan.step.rows = {rows, 1};
}

void Program::pack_keep(Plan& plan) {
  const int64_t height = plan.keep[0], width = plan.keep[1], pitch = plan.keep[2];
  const int64_t pixels = height * pitch, whole = (pixels + 7) / 8 * 8;
  if (height == 0 || (pitch == width && pixels == whole)) return;
  auto* keep = take<int32_t>(whole);
  std::fill(keep, keep + whole, 0);
  for (int64_t i = 0; i < height; ++i) std::fill(keep + i * pitch, keep + i * pitch + width, -1);
  plan.step.keep = keep;
}

void Program::pack(const Container& file) {
  constants_ = take<float>(constants_size_);
  for (const auto& [name, start] : constants_at_) {
    const std::vector<float> values = file.floats(file.tensor(name));
    std::copy(values.begin(), values.end(), constants_ + start);
  }
  for (Plan& plan : plans_) {
    Step& step = plan.step;
    if (step.op == kLinear) pack_lanes(file, plan);
    if (step.op == kDepthwise) pack_depthwise(file, plan);
    if (step.op == kSpmm) {
      pack_keep(plan);
      if (step.packed) {
        pack_panels(file, plan);
      } else {
        auto* rows = take<SparseRows>(1);
        *rows = pack_planes(file, plan.weight);
        step.rows = {rows, 1};
      }
      if (plan.fill.present) {
        step.depthwise = pack_planes(file, plan.fill);
      } else if (step.packed) {
        auto* panel = take<int32_t>(step.channels);
        tap_offsets(plan.weight.taps, panel);
        step.panel = panel;
      }
    }
    steps_.push_back(step);
  }
  plans_.clear();
  plans_.shrink_to_fit();
}

}  // namespace billhook
