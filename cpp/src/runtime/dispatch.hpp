// From a family to the table of the target in use.
#pragma once

namespace ridgeline {

struct PenaltiesTable;
struct ClippingTable;
struct DropoutTable;
struct RandomTable;
struct PruningTable;
struct OptimizersTable;

/// The tables of one target: one row a family.
struct Tables {
  const char* target;
  const PenaltiesTable* penalties;
  const ClippingTable* clipping;
  const DropoutTable* dropout;
  const RandomTable* random;
  const PruningTable* pruning;
  const OptimizersTable* optimizers;
};

/// The tables in use. Take them once a call, so that a call runs on one target.
const Tables& tables();

}  // namespace ridgeline
