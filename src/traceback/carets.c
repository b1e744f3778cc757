/* The text of a frame with its line and the carets under it.  Normal context. */
#include "tb.h"

enum fp_answer fp_carets(struct fp_call *call, const struct fp_item *item, PyObject *line, PyObject *rest,
                         PyObject **text)
{
    (void)call, (void)item, (void)line, (void)rest, (void)text;
    return FP_DECLINE;
}
