"""Generates src/safe/layout/tables.inc: where CPython keeps what the walker reads, from each version's own headers.

Usage: gen_layout.py PYTHON [PYTHON ...]          rewrite tables.inc from these interpreters (all rows)
       gen_layout.py --check PYTHON               exit 1 if the row of this interpreter differs from the committed one
Each PYTHON needs its headers (Include/internal too) and a C compiler.  How to add a version: docs/layouts.md.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYOUT = ROOT / "src" / "safe" / "layout"

# One line a field: name, then "first version: C expression" pairs; the newest that fits wins; none: absent (-1).
# The names and their meaning stand in fields.def; a test compares the two lists.
V9, V10, V11, V12, V13, V14, V15 = (f"3.{n}" for n in range(9, 16))
FIELDS = {
    "frame_kind": {V9: "0", V11: "1", V13: "2"},
    "instr_kind": {V9: "0", V10: "1", V11: "2"},
    "line_format": {V9: "0", V10: "1", V11: "2"},
    "runtime_interpreters_head": {V9: "offsetof(_PyRuntimeState, interpreters.head)"},
    "runtime_tstate_current": {V9: "offsetof(_PyRuntimeState, gilstate.tstate_current)", V12: "-1"},
    "runtime_gil": {V9: "offsetof(_PyRuntimeState, ceval.gil)", V12: "-1"},
    "interp_next": {V9: "offsetof(PyInterpreterState, next)"},
    "interp_id": {V9: "offsetof(PyInterpreterState, id)"},
    "interp_threads_head": {
        V9: "offsetof(PyInterpreterState, tstate_head)",
        V11: "offsetof(PyInterpreterState, threads.head)",
    },
    "interp_gc_collecting": {V9: "offsetof(PyInterpreterState, gc.collecting)"},
    "interp_gc_enabled": {V9: "offsetof(PyInterpreterState, gc.enabled)"},
    "interp_modules": {
        V9: "offsetof(PyInterpreterState, modules)",
        V12: "offsetof(PyInterpreterState, imports.modules)",
    },
    "interp_sysdict": {V9: "offsetof(PyInterpreterState, sysdict)"},
    "interp_gil": {V12: "offsetof(PyInterpreterState, ceval.gil)"},
    "gil_last_holder": {V9: "offsetof(struct _gil_runtime_state, last_holder)"},
    "gil_locked": {V12: "offsetof(struct _gil_runtime_state, locked)"},
    "gil_switches": {V9: "offsetof(struct _gil_runtime_state, switch_number)"},
    "tstate_prev": {V9: "offsetof(PyThreadState, prev)"},
    "tstate_next": {V9: "offsetof(PyThreadState, next)"},
    "tstate_interp": {V9: "offsetof(PyThreadState, interp)"},
    "tstate_frame": {
        V9: "offsetof(PyThreadState, frame)",
        V11: "offsetof(PyThreadState, cframe)",
        V13: "offsetof(PyThreadState, current_frame)",
    },
    "tstate_thread_id": {V9: "offsetof(PyThreadState, thread_id)"},
    "tstate_native_id": {V11: "offsetof(PyThreadState, native_thread_id)"},
    "tstate_status": {V12: "offsetof(PyThreadState, _status)"},
    "tstate_status_active": {V12: "FP_BITS(PyThreadState, _status, active)"},
    "cframe_current": {V11: "offsetof(_PyCFrame, current_frame)", V13: "-1"},
    "cframe_previous": {V11: "offsetof(_PyCFrame, previous)", V13: "-1"},
    "frame_previous": {V9: "offsetof(PyFrameObject, f_back)", V11: "offsetof(_PyInterpreterFrame, previous)"},
    "frame_code": {
        V9: "offsetof(PyFrameObject, f_code)",
        V11: "offsetof(_PyInterpreterFrame, f_code)",
        V13: "offsetof(_PyInterpreterFrame, f_executable)",
    },
    "frame_instr": {
        V9: "offsetof(PyFrameObject, f_lasti)",
        V11: "offsetof(_PyInterpreterFrame, prev_instr)",
        V13: "offsetof(_PyInterpreterFrame, instr_ptr)",
    },
    "frame_owner": {V11: "offsetof(_PyInterpreterFrame, owner)"},
    "frame_is_entry": {V11: "offsetof(_PyInterpreterFrame, is_entry)", V12: "-1"},
    "frame_return_offset": {V12: "offsetof(_PyInterpreterFrame, return_offset)", V13: "-1"},
    "frame_lineno": {V9: "offsetof(PyFrameObject, f_lineno)", V11: "-1"},
    "frame_trace": {V9: "offsetof(PyFrameObject, f_trace)", V11: "-1"},
    "frame_gen": {V9: "offsetof(PyFrameObject, f_gen)", V11: "-1"},
    # bits of the tagged reference (_PyStackRef) in frame_code that are no part of the address
    "frame_code_tag": {V9: "0", V14: "7"},
    "frame_tlbc_index": {V14: "FP_FREE_THREADED(offsetof(_PyInterpreterFrame, tlbc_index))"},
    "owner_entry": {V12: "FRAME_OWNED_BY_CSTACK", V14: "FRAME_OWNED_BY_INTERPRETER"},
    "owner_max": {V11: "FRAME_OWNED_BY_FRAME_OBJECT", V12: "FRAME_OWNED_BY_CSTACK", V15: "FRAME_OWNED_BY_INTERPRETER"},
    "code_filename": {V9: "offsetof(PyCodeObject, co_filename)"},
    "code_name": {V9: "offsetof(PyCodeObject, co_name)"},
    "code_qualname": {V11: "offsetof(PyCodeObject, co_qualname)"},
    "code_firstlineno": {V9: "offsetof(PyCodeObject, co_firstlineno)"},
    "code_linetable": {V9: "offsetof(PyCodeObject, co_lnotab)", V10: "offsetof(PyCodeObject, co_linetable)"},
    "code_bytes": {V9: "offsetof(PyCodeObject, co_code)", V11: "-1"},
    "code_size": {V11: "offsetof(PyVarObject, ob_size)"},
    "code_adaptive": {V11: "offsetof(PyCodeObject, co_code_adaptive)"},
    "code_flags": {V9: "offsetof(PyCodeObject, co_flags)"},
    "code_version": {V12: "offsetof(PyCodeObject, co_version)"},
    "code_tlbc": {V14: "FP_FREE_THREADED(offsetof(PyCodeObject, co_tlbc))"},
    "object_type": {V9: "offsetof(PyObject, ob_type)"},
    "object_refcnt": {V9: "FP_GIL(offsetof(PyObject, ob_refcnt))"},
    "var_size": {V9: "offsetof(PyVarObject, ob_size)"},
    "type_flags": {V9: "offsetof(PyTypeObject, tp_flags)"},
    "type_base": {V9: "offsetof(PyTypeObject, tp_base)"},
    "bytes_data": {V9: "offsetof(PyBytesObject, ob_sval)"},
    "str_state": {V9: "offsetof(PyASCIIObject, state)"},
    "str_length": {V9: "offsetof(PyASCIIObject, length)"},
    "str_ascii_data": {V9: "sizeof(PyASCIIObject)"},
    "str_compact_data": {V9: "sizeof(PyCompactUnicodeObject)"},
    "str_state_kind": {V9: "FP_BITS(PyASCIIObject, state, kind)"},
    "str_state_compact": {V9: "FP_BITS(PyASCIIObject, state, compact)"},
    "str_state_ascii": {V9: "FP_BITS(PyASCIIObject, state, ascii)"},
    "dict_keys": {V9: "offsetof(PyDictObject, ma_keys)"},
    # 3.9 and 3.10 keep struct _dictkeysobject in Objects/dict-common.h, which isn't installed
    "keys_log2_size": {V11: "offsetof(struct _dictkeysobject, dk_log2_size)"},
    "keys_size": {V9: "8", V11: "-1"},
    "keys_log2_index_bytes": {V11: "offsetof(struct _dictkeysobject, dk_log2_index_bytes)"},
    "keys_kind": {V11: "offsetof(struct _dictkeysobject, dk_kind)"},
    "keys_nentries": {V9: "32", V11: "offsetof(struct _dictkeysobject, dk_nentries)"},
    "keys_indices": {V9: "40", V11: "offsetof(struct _dictkeysobject, dk_indices)"},
    "set_mask": {V9: "offsetof(PySetObject, mask)"},
    "set_table": {V9: "offsetof(PySetObject, table)"},
    "set_used": {V9: "offsetof(PySetObject, used)"},
    # PyModuleObject is private to moduleobject.c before 3.10; 3.15 has a flag beside the pointer
    "module_def": {V9: "24", V10: "offsetof(PyModuleObject, md_def)", V15: "FP_MODULE_DEF"},
    "module_token_is_def": {V15: "FP_MODULE_TOKEN_IS_DEF"},
    "moduledef_methods": {V9: "offsetof(PyModuleDef, m_methods)"},
}

# Layout field -> path in _Py_DebugOffsets (3.13 and later), or two paths whose values add up; what is listed here is
# taken from the running process.
DEBUG = {
    "runtime_interpreters_head": "runtime_state.interpreters_head",
    "interp_next": "interpreter_state.next",
    "interp_id": "interpreter_state.id",
    "interp_threads_head": "interpreter_state.threads_head",
    "interp_gc_collecting": "interpreter_state.gc+gc.collecting",
    "interp_modules": "interpreter_state.imports_modules",
    "interp_sysdict": "interpreter_state.sysdict",
    "interp_gil": "interpreter_state.ceval_gil",
    "tstate_prev": "thread_state.prev",
    "tstate_next": "thread_state.next",
    "tstate_interp": "thread_state.interp",
    "tstate_frame": "thread_state.current_frame",
    "tstate_thread_id": "thread_state.thread_id",
    "tstate_native_id": "thread_state.native_thread_id",
    "tstate_status": "thread_state.status",
    "frame_previous": "interpreter_frame.previous",
    "frame_code": "interpreter_frame.executable",
    "frame_instr": "interpreter_frame.instr_ptr",
    "frame_owner": "interpreter_frame.owner",
    "code_filename": "code_object.filename",
    "code_name": "code_object.name",
    "code_qualname": "code_object.qualname",
    "code_firstlineno": "code_object.firstlineno",
    "code_linetable": "code_object.linetable",
    "code_adaptive": "code_object.co_code_adaptive",
    "object_type": "pyobject.ob_type",
    "type_flags": "type_object.tp_flags",
    "bytes_data": "bytes_object.ob_sval",
    "str_state": "unicode_object.state",
    "str_length": "unicode_object.length",
    "str_ascii_data": "unicode_object.asciiobject_size",
}

PROBE = r"""
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <frameobject.h>
#include "internal/pycore_runtime.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_gil.h"
#if PY_VERSION_HEX >= 0x030b0000
#include "internal/pycore_frame.h"
#include "internal/pycore_dict.h"
#endif
#if PY_VERSION_HEX >= 0x030a0000
#include "internal/pycore_moduleobject.h"
#endif
#if PY_VERSION_HEX >= 0x030e0000
#include "internal/pycore_interpframe_structs.h"
#endif
#if PY_VERSION_HEX >= 0x030d0000 && PY_VERSION_HEX < 0x030e0000
#define FP_DBG 1
#elif PY_VERSION_HEX >= 0x030e0000
#include "internal/pycore_debug_offsets.h"
#define FP_DBG 1
#endif
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#ifdef Py_GIL_DISABLED
#define FP_FREE_THREADED(x) (x)
#define FP_GIL(x) (-1)
#else
#define FP_FREE_THREADED(x) (-1)
#define FP_GIL(x) (x)
#endif
#if PY_VERSION_HEX >= 0x030f0000
#define FP_MODULE_DEF offsetof(PyModuleObject, md_token)
#define FP_MODULE_TOKEN_IS_DEF offsetof(PyModuleObject, md_token_is_def)
#endif
/* the mask of a bit field inside its 32-bit word */
#define FP_BITS(type, word, bit) \
    (__extension__({ type v_; unsigned w_; memset(&v_, 0, sizeof v_); v_.word.bit = ~0; \
        memcpy(&w_, (char *)&v_ + offsetof(type, word), 4); (long)w_; }))
int main(void) {
    printf("{\"hex\": %ld, \"free_threaded\": %d, \"fields\": {", (long)PY_VERSION_HEX,
#ifdef Py_GIL_DISABLED
    1
#else
    0
#endif
    );
@FIELDS@
    printf("\"\": 0}, \"debug\": {");
#ifdef FP_DBG
@DEBUG@
#endif
    printf("\"\": 0}}\n");
    return 0;
}
"""


def key(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def expression(choices: dict[str, str], version: str) -> str:
    fitting = [v for v in choices if key(v) <= key(version)]
    return choices[max(fitting, key=key)] if fitting else "-1"


def measure(python: str, free_threaded: bool | None = None) -> dict:
    """The offsets of one interpreter, by compiling a probe; free_threaded=True asks for that flavour."""
    info = json.loads(
        subprocess.check_output(
            [python, "-c", "import sys, sysconfig, json; print(json.dumps(['%d.%d' % sys.version_info[:2],"
             " sysconfig.get_paths()['include'], sysconfig.get_paths()['platinclude']]))"], text=True)
    )  # fmt: skip
    version, *includes = info
    fields = "\n".join(f'    printf("\\"{n}\\": %ld, ", (long)({expression(c, version)}));' for n, c in FIELDS.items())
    debug = "\n".join(
        f'    printf("\\"{n}\\": [%ld, %ld], ", (long)offsetof(_Py_DebugOffsets, {p}), {second(q)});'
        for n, path in DEBUG.items()
        for p, _, q in [path.partition("+")]
    )
    flags = [f"-I{i}{s}" for i in dict.fromkeys(includes) for s in ("", "/internal", "/cpython")]
    if free_threaded:
        flags.append("-DPy_GIL_DISABLED=1")
    with tempfile.TemporaryDirectory() as tmp:
        source = pathlib.Path(tmp, "probe.c")
        source.write_text(PROBE.replace("@FIELDS@", fields).replace("@DEBUG@", debug))
        cc = sysconfig.get_config_var("CC") or "cc"
        subprocess.run(
            [*cc.split()[:1], "-std=gnu11", "-w", "-DPy_BUILD_CORE", *flags, str(source), "-o", f"{tmp}/probe"],
            check=True,
        )
        out = json.loads(subprocess.check_output([f"{tmp}/probe"], text=True))
    for part in ("fields", "debug"):
        out[part].pop("", None)
    out["version"] = version
    return out


def second(path: str) -> str:
    return f"(long)offsetof(_Py_DebugOffsets, {path})" if path else "-1L"


def render(rows: list[dict]) -> str:
    out = ["/* Generated by tools/gen_layout.py from the headers of each version; see docs/layouts.md. */", ""]
    out.append("/* FP_ROW(first version, last version, free-threaded, field values in the order of fields.def) */")
    for r in rows:
        values = ", ".join(str(r["fields"][n]) for n in field_names())
        wrapped = re.sub(r"(.{1,100})(?:, |$)", r"    \1,\n", values).rstrip().rstrip(",")
        out.append(f"FP_ROW(0x{r['first']:08x}, 0x{r['last']:08x}, {r['free_threaded']},\n{wrapped})")
    out.append("")
    out.append("/* FP_DEBUG(minor version, field, byte offset in _Py_DebugOffsets, that of a second to add or -1) */")
    seen = set()
    for r in rows:
        if r["version"] in seen or not r["debug"]:
            continue
        seen.add(r["version"])
        minor = key(r["version"])[1]
        out += [f"FP_DEBUG({minor}, {n}, {a}, {b})" for n, (a, b) in r["debug"].items()]
    return "\n".join(out) + "\n"


def field_names() -> list[str]:
    return re.findall(r"^FP_FIELD\((\w+)\)", (LAYOUT / "fields.def").read_text(), re.M)


def merge(measured: list[dict]) -> list[dict]:
    """One row for a run of patch releases of one minor version and flavour that agree; a row covers its whole minor
    version unless two rows differ, then each covers up to where the next measured one begins."""
    rows: list[dict] = []
    for m in sorted(measured, key=lambda m: (key(m["version"]), m["free_threaded"], m["hex"])):
        same = rows and (rows[-1]["version"], rows[-1]["free_threaded"]) == (m["version"], m["free_threaded"])
        minor = key(m["version"])[1]
        if same and rows[-1]["fields"] == m["fields"]:
            continue
        first = m["hex"] if same else 0x03000000 | minor << 16
        if same:
            rows[-1]["last"] = m["hex"] - 1
        rows.append({**m, "first": first, "last": 0x0300FFFF | minor << 16})
    return rows


def main(argv: list[str]) -> int:
    if argv[:1] == ["--check"]:
        m = measure(argv[1])
        row = {**m, "fields": {n: m["fields"][n] for n in field_names()}}
        committed = (LAYOUT / "tables.inc").read_text()
        values = ", ".join(str(v) for v in row["fields"].values())
        flat = re.sub(r"\s+", " ", committed)
        wanted = re.compile(rf"FP_ROW\(0x(\w+), 0x(\w+), {m['free_threaded']}, {re.escape(values)}\)")
        if any(int(a, 16) <= m["hex"] <= int(b, 16) for a, b in wanted.findall(flat)):
            return 0
        print(f"tables.inc has no row with the offsets of {argv[1]} ({m['hex']:#x}); see docs/layouts.md")
        return 1
    if not argv:
        print(__doc__)
        return 2
    measured = [measure(p) for p in argv]
    for p in argv:  # flavours that no interpreter at hand has come from the same headers
        version = subprocess.check_output(
            [p, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
        ).strip()
        have = {(m["version"], m["free_threaded"]) for m in measured}
        if key(version) >= (3, 13) and (version, 1) not in have:
            measured.append(measure(p, free_threaded=True))
    (LAYOUT / "tables.inc").write_text(render(merge(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
