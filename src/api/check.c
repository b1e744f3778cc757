/* Is this a code object, and which one.  Any context. */
#include "api/api.h"

uint32_t fp_code_check(struct fp_walk *w, fp_addr code)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;
    uint32_t check = 0;

    if (!fp_type_is(w, code, w->target->code_type))
        return 0;
    if (l->code_version >= 0)
        check = fp_load32(r, code + (fp_addr)l->code_version);
    if (check == 0) {
        fp_addr name = fp_load64(r, code + (fp_addr)l->code_name);
        uint32_t hash = fp_load32(r, name + (fp_addr)FP_STR_HASH(l));
        check = fp_code_mix(hash, fp_load32(r, code + (fp_addr)l->code_firstlineno));
    }
    return fp_reader_faulted(r) ? 0 : check;
}
