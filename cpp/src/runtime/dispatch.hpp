// From a family to the table of the target in use.
#pragma once

#include "runtime/families.def"

namespace ridgeline {

#define RIDGELINE_ROW(name, table) struct table;
RIDGELINE_FAMILIES(RIDGELINE_ROW)
#undef RIDGELINE_ROW

/// The tables of one target.
struct Tables {
  const char* target;
#define RIDGELINE_ROW(name, table) const table* name;
  RIDGELINE_FAMILIES(RIDGELINE_ROW)
#undef RIDGELINE_ROW
};

/// The tables in use. Take them once a call, so that a call runs on one target.
const Tables& tables();

/// Those of the best target of this CPU, whichever is in use.
const Tables& best_tables();

}  // namespace ridgeline
