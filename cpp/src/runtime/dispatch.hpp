// From a family to the table of the target in use.
#pragma once

namespace ridgeline {

struct PenaltiesTable;
struct ClippingTable;
struct DropoutTable;
struct RandomTable;
struct PruningTable;
struct OptimizersTable;
struct RoofTable;

/// The tables of one target: one row a family.
struct Tables {
  const char* target;
  const PenaltiesTable* penalties;
  const ClippingTable* clipping;
  const DropoutTable* dropout;
  const RandomTable* random;
  const PruningTable* pruning;
  const OptimizersTable* optimizers;
  const RoofTable* roof;
};

/// The tables in use. Take them once a call, so that a call runs on one target.
const Tables& tables();

/// Those of the best target of this CPU, whichever is in use.
const Tables& best_tables();

}  // namespace ridgeline
