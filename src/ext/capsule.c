/* The capsule by which other extensions get the call-stack API.  Normal context. */
#include "ext.h"

#include "api/table.h"

int fp_ext_capsule_add(PyObject *module)
{
    fp_api_start(fp_ext_target(), fp_ext_status());
    PyObject *capsule = PyCapsule_New((void *)(uintptr_t)&fp_api_functions, FAULTPROOF_CAPSULE, NULL);
    if (capsule == NULL)
        return -1;
    int result = PyObject_SetAttrString(module, "_C_API", capsule);
    Py_DECREF(capsule);
    return result;
}
