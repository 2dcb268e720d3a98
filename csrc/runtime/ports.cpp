#include "ports.h"

#include <algorithm>

#include "f32_rearrange.h"
#include "refusal.h"

namespace billhook {

namespace {

constexpr size_t kMaxPorts = 256, kMaxDimensions = BILLHOOK_MAX_DIMENSIONS;

struct Type {
  const char* name;
  int64_t number, bytes;
};
constexpr Type kTypes[] = {
    {"F32", kFloats, 4}, {"I64", kInt64, 8}, {"I32", kInt32, 4}, {"BOOL", kBool, 1}};

Port read_port(const Value& value, bool input) {
  Port port{};
  port.name = value["name"].text();
  port.dtype = value["dtype"].text();
  const auto type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                 [&](const Type& each) { return each.name == port.dtype; });
  if (type == std::end(kTypes) || (!input && type->number != kFloats))
    refuse(port.name + " is " + port.dtype + ": this runtime reads F32, I64, I32 and BOOL, and gives F32",
           BILLHOOK_UNSUPPORTED);
  port.number = type->number;
  port.elements = 1;
  for (const Value& side : value["shape"].items()) {
    port.shape.push_back(side.number(1, kMost));
    require(port.elements <= kMost / port.shape.back(),
            "an input or output has more elements than are counted");
    port.elements *= port.shape.back();
  }
  require(port.shape.size() <= kMaxDimensions, "an input or output has more than eight dimensions");
  port.bytes = port.elements * type->bytes;
  require(port.bytes <= kMostBytes, "an input or output is larger than this machine can address");
  const auto rank = static_cast<int64_t>(port.shape.size());
  port.merged = !input && value["merged"].truth();
  port.axis = value["axis"].number(0, rank - (port.merged ? 1 : 0));
  return port;
}

std::vector<Port> read_ports(const Value& value, bool inputs) {
  std::vector<Port> ports;
  for (const Value& each : value.items()) ports.push_back(read_port(each, inputs));
  require(!ports.empty() && ports.size() <= kMaxPorts, "it has no inputs or outputs, or too many");
  std::vector<std::string> names;
  for (const Port& port : ports) names.push_back(port.name);
  std::sort(names.begin(), names.end());
  require(std::adjacent_find(names.begin(), names.end()) == names.end(),
          "two of its inputs or outputs have one name");
  return ports;
}

}  // namespace

std::vector<Port> read_inputs(const Value& value) { return read_ports(value, true); }
std::vector<Port> read_outputs(const Value& value) { return read_ports(value, false); }

}  // namespace billhook
