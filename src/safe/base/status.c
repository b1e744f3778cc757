/* The texts of the status codes.  Any context. */
#include "base/base.h"

const char *fp_status_text(enum fp_status status)
{
    static const char *const texts[] = {
#define FP_STATUS(name, text) text,
        FP_STATUSES(FP_STATUS)
#undef FP_STATUS
    };
    return (size_t)status < FP_COUNT(texts) ? texts[status] : "unknown status";
}
