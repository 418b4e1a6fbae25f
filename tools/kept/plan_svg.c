/* plan_svg.c: the plan as a picture. */
#include "plan_out.h"
#include "fail.h"
kept_status cli_plan_svg(const kept_plan *plan, const char *model, const char *path,
                         struct kept_error *err)
{
    (void)plan;(void)model;
    return cli_fail(err, KEPT_E_IO, "cannot write '%s'", path);
}
