/* Is this a code object, and which one.  Any context. */
#include "api/api.h"

uint32_t fp_code_check(struct fp_walk *w, fp_addr code)
{
    if (!fp_type_is(w, code, w->target->code_type))
        return 0;
    uint32_t check = fp_code_mix(w->reader, &w->target->layout, code);
    return fp_reader_faulted(w->reader) ? 0 : check;
}
