/* core/sampler_internal.h: what the session asks of a sampler. */
#ifndef KEPT_CORE_SAMPLER_INTERNAL_H
#define KEPT_CORE_SAMPLER_INTERNAL_H

#include "kept/sampler.h"

uint32_t kept_sampler_n_vocab(const kept_sampler *sampler);

#endif
