/* kept/kept.h: the whole stable interface. */
#ifndef KEPT_KEPT_H
#define KEPT_KEPT_H

#include "common.h"
#include "device.h"
#include "facts.h"
#include "log.h"
#include "memory.h"
#include "model.h"
#include "plan.h"
#include "sampler.h"
#include "session.h"
#include "tokenizer.h"

#endif
