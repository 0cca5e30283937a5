// SPDX-License-Identifier: Apache-2.0
/// The component io: model files, and what the tensors in them mean. Includes core.
#pragma once

#include "subbyte/checkpoint/names.hpp"
#include "subbyte/io/gguf.hpp"
#include "subbyte/io/gguf_split.hpp"
#include "subbyte/io/gguf_split_writer.hpp"
#include "subbyte/io/gguf_writer.hpp"
#include "subbyte/io/safetensors.hpp"
#include "subbyte/io/safetensors_writer.hpp"
#include "subbyte/subbyte.hpp"
