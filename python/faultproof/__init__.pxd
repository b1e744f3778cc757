# The C API for Cython: `cimport faultproof`, then faultproof.faultproof_import() once.  The reference is faultproof.h.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "faultproof.h" nogil:
    ctypedef struct tstate "struct _ts":
        pass

    enum:
        FAULTPROOF_STRSIZE
        FAULTPROOF_VERSION_HEX
        FAULTPROOF_API_VERSION
        FAULTPROOF_KIND_FUNCTION
        FAULTPROOF_KIND_GENERATOR
        FAULTPROOF_TORN
        FAULTPROOF_CODE_FREED
        FAULTPROOF_FILENAME_TRUNCATED
        FAULTPROOF_NAME_TRUNCATED
        FAULTPROOF_QUALNAME_TRUNCATED
        FAULTPROOF_THREAD_HOLDS_GIL
        FAULTPROOF_THREAD_OWN
        FAULTPROOF_THREAD_COLLECTS
        FAULTPROOF_THREAD_NAMESIZE

    ctypedef struct faultproof_frame_info:
        int lineno
        int filename_truncated
        int name_truncated
        char filename[501]
        char name[501]

    ctypedef struct faultproof_frame:
        uint64_t code
        int32_t offset
        uint32_t check
        uint32_t kind

    ctypedef struct faultproof_session:
        uint32_t struct_size

    ctypedef struct faultproof_location:
        uint32_t struct_size
        uint32_t flags
        int32_t line
        int32_t end_line
        int32_t column
        int32_t end_column
        int32_t first_line
        uint32_t code_flags
        char filename[501]
        char name[501]
        char qualname[501]

    ctypedef struct faultproof_thread:
        uint32_t struct_size
        uint32_t flags
        tstate *tstate
        uint64_t thread_id
        uint64_t native_id
        int64_t interpreter_id

    ctypedef struct faultproof_cache:
        pass

    int faultproof_import() except -1 with gil
    const char *faultproof_status()
    uint32_t faultproof_version()
    int faultproof_install_guard()
    int faultproof_remove_guard()
    int faultproof_collect_call_stack(tstate *state, faultproof_frame_info *frames, int max_frames)
    void faultproof_print_call_stack(int fd, const faultproof_frame_info *frames, int n_frames, int write_header)
    int faultproof_session_begin(faultproof_session *session)
    void faultproof_session_end(faultproof_session *session)
    int faultproof_collect(const faultproof_session *session, tstate *state, faultproof_frame *frames, int max_frames)
    int faultproof_collect_own(const faultproof_session *session, faultproof_frame *frames, int max_frames)
    faultproof_cache *faultproof_cache_init(void *memory, size_t size)
    int faultproof_resolve(faultproof_cache *cache, const faultproof_frame *frame, faultproof_location *location)
    tstate *faultproof_current_tstate()
    int faultproof_thread_info(tstate *state, faultproof_thread *thread)
    int faultproof_thread_name(uint64_t native_id, char *name, size_t size)
    int faultproof_each_thread(int (*visit)(const faultproof_thread *, void *) noexcept, void *context)
    tstate *faultproof_gil_holder(int64_t interpreter_id)
    int faultproof_can_collect()
    int faultproof_can_guard()
    int faultproof_can_columns()
    int faultproof_can_qualnames()
    int faultproof_can_native_ids()
    int faultproof_can_gil_holder()
    int faultproof_can_identify_code()
