/* The functions as the capsule hands them out, and the package's guard.  Normal context. */
#include "api/table.h"

int faultproof_install_guard(void)
{
    fp_guard_require();
    return 0;
}

int faultproof_remove_guard(void)
{
    return -1; /* faulthandler, user signals and the watchdog rely on it */
}

const struct faultproof_functions fp_api_functions = {
    .struct_size = sizeof(struct faultproof_functions),
    .api_version = FAULTPROOF_API_VERSION,
    .status = faultproof_status,
    .version = faultproof_version,
    .install_guard = faultproof_install_guard,
    .remove_guard = faultproof_remove_guard,
    .collect_call_stack = faultproof_collect_call_stack,
    .print_call_stack = faultproof_print_call_stack,
    .session_begin = faultproof_session_begin,
    .session_end = faultproof_session_end,
    .collect = faultproof_collect,
    .collect_own = faultproof_collect_own,
    .cache_init = faultproof_cache_init,
    .resolve = faultproof_resolve,
    .current_tstate = faultproof_current_tstate,
    .thread_info = faultproof_thread_info,
    .thread_name = faultproof_thread_name,
    .each_thread = faultproof_each_thread,
    .gil_holder = faultproof_gil_holder,
    .can_collect = faultproof_can_collect,
    .can_guard = faultproof_can_guard,
    .can_columns = faultproof_can_columns,
    .can_qualnames = faultproof_can_qualnames,
    .can_native_ids = faultproof_can_native_ids,
    .can_gil_holder = faultproof_can_gil_holder,
    .can_identify_code = faultproof_can_identify_code,
};
