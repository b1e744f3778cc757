/* The table of the public functions that the package's capsule holds. */
#ifndef FP_API_TABLE_H
#define FP_API_TABLE_H

#include "api/api.h"

FP_HIDDEN extern const struct faultproof_functions fp_api_functions;

#endif
