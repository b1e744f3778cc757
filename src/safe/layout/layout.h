/* Where one CPython version keeps what the walk reads: a table of offsets, chosen once in normal context. */
#ifndef FP_LAYOUT_H
#define FP_LAYOUT_H

#include "reader/reader.h"

#define FP_ABSENT (-1)

enum fp_frame_kind {
    FP_FRAME_HEAP,   /* 3.9, 3.10: PyFrameObject, linked by f_back */
    FP_FRAME_CFRAME, /* 3.11, 3.12: _PyInterpreterFrame, found through a _PyCFrame on the C stack */
    FP_FRAME_DIRECT, /* 3.13 and later: _PyInterpreterFrame, found in the thread state */
};
enum fp_instr_kind {
    FP_INSTR_BYTES,   /* 3.9: an int32, byte offset of the last instruction */
    FP_INSTR_UNITS,   /* 3.10: an int32, counted in code units of 2 bytes */
    FP_INSTR_POINTER, /* 3.11 and later: address in the code object */
};
enum fp_line_format {
    FP_LINES_LNOTAB,   /* 3.9: Objects/lnotab_notes.txt */
    FP_LINES_310,      /* 3.10: Objects/lnotab_notes.txt, PEP 626 */
    FP_LINES_LOCATION, /* 3.11 and later: Objects/locations.md */
};

/* What each field means stands in fields.def. */
struct fp_layout {
#define FP_FIELD(name) int32_t name;
#include "layout/fields.def"
#undef FP_FIELD
};

/* What the layout is chosen by, and the addresses that only the running process knows. */
struct fp_target {
    fp_addr runtime;    /* &_PyRuntime */
    uint32_t version;   /* PY_VERSION_HEX of the running interpreter */
    bool free_threaded; /* Py_GIL_DISABLED */
    fp_addr code_type, str_type, bytes_type, dict_type, frozenset_type, module_type; /* the type objects */
    fp_addr fatal_functions[3]; /* Py_FatalError and its kin, which report before they abort; 0: not known */
    struct fp_layout layout;
    unsigned row; /* which row of the table the layout is, from 1; 0: none, the process says otherwise */
};

/* The table's layout for the target's version and flavour; NULL: there is none. */
FP_HIDDEN const struct fp_layout *fp_layout_row(const struct fp_target *target);

/* Fills target->layout for its version and flavour; on 3.13 and later takes over what the process itself says in
   _Py_DebugOffsets, after checking it.  FP_OK, FP_UNKNOWN_VERSION, FP_BAD_DEBUG_OFFSETS, FP_UNREADABLE. */
FP_HIDDEN enum fp_status fp_layout_choose(struct fp_target *target, struct fp_reader *reader) FP_MUST_CHECK;

#endif
