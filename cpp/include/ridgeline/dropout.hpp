// Dropout in all its forms. No mask is stored: the backward pass makes the same choices from the
// same key.
#pragma once

#include "ridgeline/random.hpp"

namespace ridgeline {

// An element is dropped with probability floor(2^32 p) / 2^32, by its index alone. Dropped elements
// are selected away, so NaN and infinity become what is said here. Every `out` may be the input at
// the same address. Numberings default to consecutive indices from 0.

/// Kept elements times 1 / (1 - p), dropped ones 0. Its own backward pass.
void dropout(const Array& x, const Array& out, double p, Key key, const Numbering& numbering = {},
             int threads = 0);

/// The same with a given factor for kept elements.
void dropout_scaled(const Array& x, const Array& out, double p, Key key, double scale,
                    const Numbering& numbering = {}, int threads = 0);

/// dropout(x) + residual, rounded once for half types.
void dropout_add(const Array& x, const Array& residual, const Array& out, double p, Key key,
                 const Numbering& numbering = {}, int threads = 0);

/// Alpha dropout (Klambauer et al. 2017): keeps mean and variance of SELU's output.
void alpha_dropout(const Array& x, const Array& out, double p, Key key,
                   const Numbering& numbering = {}, int threads = 0);
void alpha_dropout_backward(const Array& dy, const Array& out, double p, Key key,
                            const Numbering& numbering = {}, int threads = 0);

/// x (1 + sqrt(p / (1 - p)) z), z normal. Its own backward pass.
void gaussian_dropout(const Array& x, const Array& out, double p, Key key,
                      const Numbering& numbering = {}, int threads = 0);

/// x + std z.
void gaussian_noise(const Array& x, const Array& out, double std, Key key,
                    const Numbering& numbering = {}, int threads = 0);

/// Zoneout (Krueger et al. 2017): old where dropped, new where kept, bit for bit.
void zoneout(const Array& fresh, const Array& old, const Array& out, double p, Key key,
             const Numbering& numbering = {}, int threads = 0);
void zoneout_backward(const Array& dy, const Array& d_fresh, const Array& d_old, double p, Key key,
                      const Numbering& numbering = {}, int threads = 0);

/// Where the blocks of DropBlock may lie.
enum class BlockEdges : std::uint8_t {
  full,    ///< whole blocks only (Ghiasi, Lin & Le 2018; torchvision)
  clipped  ///< centred anywhere, cut at the edges (timm)
};

/// DropBlock: x is (samples, channels, size...) in C order, with 1 to 3 axes in `size`. Kept
/// elements times (elements / kept elements). Its own backward pass.
void drop_block(const Array& x, const Array& out, std::int64_t samples, std::int64_t channels,
                std::span<const std::int64_t> size, std::span<const std::int64_t> block, double p,
                Key key, BlockEdges edges, bool per_channel, int threads = 0);

}  // namespace ridgeline
