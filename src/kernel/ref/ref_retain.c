/* kernel/ref/ref_retain.c: references of slot maintenance. */
#include "kernel/ref/ref.h"

void ref_q_stats(const struct kept_host_call *call)
{
    (void)call;
}

void ref_score_expected(const struct kept_host_call *call)
{
    (void)call;
}

void ref_score_keydiff(const struct kept_host_call *call)
{
    (void)call;
}

void ref_slot_select(const struct kept_host_call *call)
{
    (void)call;
}

void ref_slot_nearest(const struct kept_host_call *call)
{
    (void)call;
}

void ref_slot_merge(const struct kept_host_call *call)
{
    (void)call;
}

void ref_slot_move(const struct kept_host_call *call)
{
    (void)call;
}

void ref_slot_renumber(const struct kept_host_call *call)
{
    (void)call;
}

void ref_slot_rotate(const struct kept_host_call *call)
{
    (void)call;
}
