/* Is this a code object, and which one.  Any context. */
#include "api/api.h"

/* Length and last 8 bytes: where names are numbered, they differ at the end. */
uint32_t fp_name_content(struct fp_reader *r, const struct fp_layout *l, fp_addr name)
{
    uint32_t kind_mask = (uint32_t)l->str_state_kind, state = fp_load32(r, name + (fp_addr)l->str_state);
    uint64_t length = fp_load64(r, name + (fp_addr)l->str_length), tail = 0;
    bool ascii = (state & (uint32_t)l->str_state_ascii) != 0;
    fp_addr data = name + (fp_addr)(ascii ? l->str_ascii_data : l->str_compact_data);
    uint64_t size = length * ((state & kind_mask) / (kind_mask & -kind_mask));

    for (uint64_t i = size < 8 ? 0 : size - 8; i < size; i++)
        tail = tail << 8 | fp_load8(r, data + i);
    uint64_t mixed = (tail ^ length) * 0x9e3779b97f4a7c15;
    return (uint32_t)(mixed >> 32);
}

static uint32_t check_of(struct fp_walk *w, fp_addr code, bool hashed)
{
    const struct fp_layout *l = &w->target->layout;
    struct fp_reader *r = w->reader;

    if (!fp_type_is(w, code, w->target->code_type))
        return 0;
    fp_addr name = fp_load64(r, code + (fp_addr)l->code_name);
    uint32_t hash = fp_load32(r, name + (fp_addr)FP_STR_HASH(l));
    if (hash == FP_NOT_HASHED || !hashed)
        hash = fp_name_content(r, l, name);
    uint32_t version = l->code_version >= 0 ? fp_load32(r, code + (fp_addr)l->code_version) : 0;
    uint32_t check = fp_code_mix(hash, fp_load32(r, code + (fp_addr)l->code_firstlineno), version);
    return fp_reader_faulted(r) ? 0 : check;
}

uint32_t fp_code_check(struct fp_walk *w, fp_addr code)
{
    return check_of(w, code, true);
}

bool fp_code_is(struct fp_walk *w, fp_addr code, uint32_t check)
{
    return check != 0 && (check_of(w, code, true) == check || check_of(w, code, false) == check);
}
