# cython: language_level=3
cimport faultproof

faultproof.faultproof_import()


def stack():
    cdef faultproof.faultproof_frame_info[100] frames
    cdef int n
    with nogil:
        n = faultproof.faultproof_collect_call_stack(faultproof.faultproof_current_tstate(), frames, 100)
    return [(frames[i].filename.decode(), frames[i].lineno, frames[i].name.decode()) for i in range(n)]


cdef int count(const faultproof.faultproof_thread *thread, void *context) noexcept nogil:
    (<int *>context)[0] += 1
    return 0


def threads():
    cdef int n = 0
    faultproof.faultproof_each_thread(count, &n)
    return n


def location():
    cdef faultproof.faultproof_frame frame
    cdef faultproof.faultproof_location location
    location.struct_size = sizeof(location)
    if faultproof.faultproof_collect_own(NULL, &frame, 1) != 1:
        return None
    if faultproof.faultproof_resolve(NULL, &frame, &location) != 0:
        return None
    return location.name.decode(), location.line
