/* tune/check_retain.c: cases and bounds of slot maintenance. */
#include "tune/check_case.h"

void kept_keys_q_stats(struct check_case *c)
{
    (void)c;
}

void kept_gen_q_stats(struct check_case *c)
{
    c->failed = false;
    kept_check_step(c, c->row->n_binds - 1, 1, 0, NULL);
    for (uint32_t i = 0; i + 1 < c->row->n_binds; i++)
        kept_check_bind(c, i, 1 << 16);
}

void kept_bound_q_stats(struct check_case *c)
{
    (void)c;
}

void kept_keys_score_expected(struct check_case *c)
{
    (void)c;
}

void kept_gen_score_expected(struct check_case *c)
{
    c->failed = false;
    kept_check_step(c, c->row->n_binds - 1, 1, 0, NULL);
    for (uint32_t i = 0; i + 1 < c->row->n_binds; i++)
        kept_check_bind(c, i, 1 << 16);
}

void kept_bound_score_expected(struct check_case *c)
{
    (void)c;
}

void kept_keys_score_keydiff(struct check_case *c)
{
    (void)c;
}

void kept_gen_score_keydiff(struct check_case *c)
{
    c->failed = false;
    kept_check_step(c, c->row->n_binds - 1, 1, 0, NULL);
    for (uint32_t i = 0; i + 1 < c->row->n_binds; i++)
        kept_check_bind(c, i, 1 << 16);
}

void kept_bound_score_keydiff(struct check_case *c)
{
    (void)c;
}

void kept_keys_slot_select(struct check_case *c)
{
    (void)c;
}

void kept_gen_slot_select(struct check_case *c)
{
    c->failed = false;
    kept_check_step(c, c->row->n_binds - 1, 1, 0, NULL);
    for (uint32_t i = 0; i + 1 < c->row->n_binds; i++)
        kept_check_bind(c, i, 1 << 16);
}

void kept_bound_slot_select(struct check_case *c)
{
    (void)c;
}

void kept_keys_slot_nearest(struct check_case *c)
{
    (void)c;
}

void kept_gen_slot_nearest(struct check_case *c)
{
    c->failed = false;
    kept_check_step(c, c->row->n_binds - 1, 1, 0, NULL);
    for (uint32_t i = 0; i + 1 < c->row->n_binds; i++)
        kept_check_bind(c, i, 1 << 16);
}

void kept_bound_slot_nearest(struct check_case *c)
{
    (void)c;
}

void kept_keys_slot_merge(struct check_case *c)
{
    (void)c;
}

void kept_gen_slot_merge(struct check_case *c)
{
    c->failed = false;
    kept_check_step(c, c->row->n_binds - 1, 1, 0, NULL);
    for (uint32_t i = 0; i + 1 < c->row->n_binds; i++)
        kept_check_bind(c, i, 1 << 16);
}

void kept_bound_slot_merge(struct check_case *c)
{
    (void)c;
}

void kept_keys_slot_move(struct check_case *c)
{
    (void)c;
}

void kept_gen_slot_move(struct check_case *c)
{
    c->failed = false;
    kept_check_step(c, c->row->n_binds - 1, 1, 0, NULL);
    for (uint32_t i = 0; i + 1 < c->row->n_binds; i++)
        kept_check_bind(c, i, 1 << 16);
}

void kept_bound_slot_move(struct check_case *c)
{
    (void)c;
}

void kept_keys_slot_renumber(struct check_case *c)
{
    (void)c;
}

void kept_gen_slot_renumber(struct check_case *c)
{
    c->failed = false;
    kept_check_step(c, c->row->n_binds - 1, 1, 0, NULL);
    for (uint32_t i = 0; i + 1 < c->row->n_binds; i++)
        kept_check_bind(c, i, 1 << 16);
}

void kept_bound_slot_renumber(struct check_case *c)
{
    (void)c;
}

void kept_keys_slot_rotate(struct check_case *c)
{
    (void)c;
}

void kept_gen_slot_rotate(struct check_case *c)
{
    c->failed = false;
    kept_check_step(c, c->row->n_binds - 1, 1, 0, NULL);
    for (uint32_t i = 0; i + 1 < c->row->n_binds; i++)
        kept_check_bind(c, i, 1 << 16);
}

void kept_bound_slot_rotate(struct check_case *c)
{
    (void)c;
}
