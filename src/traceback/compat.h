/* The interpreters' differences as macros and small inline functions; the only place that asks for a version. Normal
 * context. */
#ifndef FAULTPROOF_TRACEBACK_COMPAT_H
#define FAULTPROOF_TRACEBACK_COMPAT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <frameobject.h>
#include <structmember.h>

#include <stdbool.h>
#include <stdint.h>

/* The bytes that code positions are decoded from; they stand for the code object in the memo. */
#if PY_VERSION_HEX < 0x030A0000
#define FP_CODE_TABLE(code) ((code)->co_lnotab)
#else
#define FP_CODE_TABLE(code) ((code)->co_linetable)
#endif

/* Whether a code object knows columns. */
#define FP_HAS_POSITIONS (PY_VERSION_HEX >= 0x030B0000)
/* Whether dictionaries can be watched; older ones carry a version number that each change renews. */
#define FP_HAS_WATCHERS (PY_VERSION_HEX >= 0x030C0000)

#if PY_VERSION_HEX >= 0x030D0000
#define fp_lookup_attr PyObject_GetOptionalAttr
#define fp_dict_get    PyDict_GetItemRef
#else
#define fp_lookup_attr _PyObject_LookupAttr
static inline int fp_dict_get(PyObject *dict, PyObject *key, PyObject **value)
{
    *value = PyDict_GetItemWithError(dict, key);
    Py_XINCREF(*value);
    return *value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
}
#endif

#if PY_VERSION_HEX < 0x030A0000
static inline PyObject *Py_NewRef(PyObject *object)
{
    Py_INCREF(object);
    return object;
}
static inline PyObject *Py_XNewRef(PyObject *object)
{
    Py_XINCREF(object);
    return object;
}
#endif

/* Drops the exception that is set if it is of that type; false: it is another one, and stays. */
static inline bool fp_clear(PyObject *type)
{
    if (!PyErr_ExceptionMatches(type))
        return false;
    PyErr_Clear();
    return true;
}

/* An exception that is raised later. */
struct fp_error {
    PyObject *type, *value, *traceback;
};

static inline void fp_error_take(struct fp_error *error)
{
    PyErr_Fetch(&error->type, &error->value, &error->traceback);
}

/* In the place of one that is set now; it is taken out of error. */
static inline void fp_error_raise(struct fp_error *error)
{
    PyErr_Restore(error->type, error->value, error->traceback);
    *error = (struct fp_error){NULL, NULL, NULL};
}

/* The item or NULL without an exception: the list may shrink in another thread. */
static inline PyObject *fp_list_get(PyObject *list, Py_ssize_t index)
{
    if (index < 0)
        return NULL;
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *item = PyList_GetItemRef(list, index);
    if (item == NULL)
        PyErr_Clear(); /* IndexError: the function raises nothing else */
    return item;
#else
    return index < PyList_GET_SIZE(list) ? Py_XNewRef(PyList_GET_ITEM(list, index)) : NULL;
#endif
}

/* Critical sections exist where threads run at once; elsewhere the GIL is enough.  What is remembered has a lock of the
 * system's: a PyMutex may be handed to a thread that doesn't run yet, and a fork() then leaves it locked for ever. */
#ifdef Py_GIL_DISABLED
#include <pthread.h>
#define FP_BEGIN_OBJECT(object) Py_BEGIN_CRITICAL_SECTION(object)
#define FP_END_OBJECT()         Py_END_CRITICAL_SECTION()
extern pthread_mutex_t fp_memory_lock; /* memo.c */
#define FP_LOCK()   pthread_mutex_lock(&fp_memory_lock)
#define FP_UNLOCK() pthread_mutex_unlock(&fp_memory_lock)
#else
#define FP_BEGIN_OBJECT(object) {
#define FP_END_OBJECT()         }
#define FP_LOCK()
#define FP_UNLOCK()
#endif

static inline PyObject *fp_frame_globals(PyFrameObject *frame)
{
#if PY_VERSION_HEX >= 0x030B0000
    return PyFrame_GetGlobals(frame);
#else
    return Py_NewRef(frame->f_globals);
#endif
}

static inline PyObject *fp_type_namespace(PyObject *type)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyType_GetDict((PyTypeObject *)type);
#else
    return Py_XNewRef(((PyTypeObject *)type)->tp_dict);
#endif
}

/* Names of variables, arguments first; and the instructions as the compiler made them. */
#if PY_VERSION_HEX >= 0x030B0000
#define fp_code_variables    PyCode_GetVarnames
#define fp_code_instructions PyCode_GetCode
#else
static inline PyObject *fp_code_variables(PyCodeObject *code)
{
    return Py_NewRef(code->co_varnames);
}
static inline PyObject *fp_code_instructions(PyCodeObject *code)
{
    return Py_NewRef(code->co_code);
}
#endif

/* A number that a type has for as long as neither it nor a base changes, and no other type ever; 0: none. */
static inline unsigned fp_type_version(PyTypeObject *type)
{
#if PY_VERSION_HEX < 0x030C0000
    if (!PyType_HasFeature(type, Py_TPFLAGS_VALID_VERSION_TAG))
        return 0;
#endif
    return __atomic_load_n(&type->tp_version_tag, __ATOMIC_RELAXED);
}

/* What the name means for objects of the type, by the dictionaries of the type and its bases: runs no code and raises
 * nothing, whatever the metaclass is.  Borrowed: for comparisons only; NULL: nothing. */
#define fp_class_value(type, name) ((const PyObject *)_PyType_Lookup(type, name))

/* The value of a local variable of the frame, a new reference; NULL with an exception. */
static inline PyObject *fp_frame_variable(PyObject *frame, PyObject *name)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyFrame_GetVar((PyFrameObject *)frame, name);
#else
    PyObject *locals = PyObject_GetAttrString(frame, "f_locals");
    PyObject *value = locals != NULL ? PyObject_GetItem(locals, name) : NULL;
    Py_XDECREF(locals);
    return value;
#endif
}

/* The exception being handled: type is not given, because it is the value's; NULLs where there is none.  New
 * references. */
static inline void fp_handled(PyObject **value, PyObject **tb)
{
#if PY_VERSION_HEX >= 0x030B0000
    *value = PyErr_GetHandledException();
    *tb = *value != NULL ? PyException_GetTraceback(*value) : NULL;
#else
    PyObject *type;
    PyErr_GetExcInfo(&type, value, tb);
    Py_XDECREF(type);
#endif
}

#endif
