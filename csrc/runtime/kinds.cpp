#include "kinds.h"

#include "refusal.h"

namespace billhook {

void refuse_unknown(const char* what, const std::string& name) {
  refuse("a step has the " + std::string(what) + " '" + name +
             "', which this runtime does not know: a newer one may",
         BILLHOOK_UNSUPPORTED);
}

const Kind& kind_of(const std::string& name) {
  for (const auto family : {map_kinds(), convolution_kinds(), matrix_kinds(), element_kinds(),
                            rearrange_kinds(), reduce_kinds(), product_kinds()})
    for (const Kind& kind : family)
      if (kind.name == name) return kind;
  refuse_unknown("operation", name);
}

}  // namespace billhook
