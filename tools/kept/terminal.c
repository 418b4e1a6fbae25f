/* terminal.c: progress, notes, Ctrl-C.
 *
 * The two variables below are the only ones of the program that are neither const nor local: a
 * signal handler has no other way to reach the session, and a progress line must be cleared by
 * whoever prints next.
 */
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BAR_WIDTH        30
#define PROGRESS_WAIT_NS 300000000ull /* what is over sooner needs no bar */
#define PROGRESS_STEP_NS 50000000ull

static struct {
    _Atomic(kept_session *) session;
    volatile sig_atomic_t pending;
    int pipe[2]; /* the handler writes, who waits for input reads: no signal is lost in between */
} interrupt;

static struct {
    char what[32];
    uint64_t begin_ns, shown_ns;
    bool shown;
} bar;

static void on_interrupt(int number)
{
    if (interrupt.pending) {
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    int saved = errno;
    interrupt.pending = 1;
    if (write(interrupt.pipe[1], "", 1) < 0)
        errno = saved; /* full: a byte is there already */
    kept_session *session = atomic_load(&interrupt.session);
    if (session)
        kept_session_cancel(session);
}

void cli_interrupt_install(void)
{
    struct sigaction action = {.sa_handler = on_interrupt}; /* no SA_RESTART: reading ends too */
    sigemptyset(&action.sa_mask);
    if (pipe(interrupt.pipe) != 0) {
        interrupt.pipe[0] = interrupt.pipe[1] = -1;
    } else {
        for (int i = 0; i < 2; i++) {
            fcntl(interrupt.pipe[i], F_SETFL, O_NONBLOCK);
            fcntl(interrupt.pipe[i], F_SETFD, FD_CLOEXEC);
        }
    }
    sigaction(SIGINT, &action, NULL);
}

void cli_interrupt_session(kept_session *session)
{
    atomic_store(&interrupt.session, session);
}

bool cli_interrupted(void)
{
    return interrupt.pending != 0;
}

void cli_interrupt_clear(void)
{
    char bytes[16];
    while (read(interrupt.pipe[0], bytes, sizeof bytes) > 0)
        continue;
    interrupt.pending = 0;
}

bool cli_wait_input(void)
{
    struct pollfd files[2] = {{.fd = STDIN_FILENO, .events = POLLIN},
                              {.fd = interrupt.pipe[0], .events = POLLIN}};
    while (!cli_interrupted() && poll(files, 2, -1) < 0 && errno == EINTR)
        continue;
    return !cli_interrupted();
}

uint64_t cli_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void draw(const char *what, uint64_t done, uint64_t total)
{
    char cells[BAR_WIDTH + 1];
    uint64_t full = total ? done * BAR_WIDTH / total : 0;
    memset(cells, '.', BAR_WIDTH);
    memset(cells, '#', full > BAR_WIDTH ? BAR_WIDTH : (size_t)full);
    cells[BAR_WIDTH] = '\0';
    if (total)
        fprintf(stderr, "\r%-10s [%s] %3u %%", what, cells, (unsigned)(100 * done / total));
    else
        fprintf(stderr, "\r%-10s", what);
    fflush(stderr);
}

bool cli_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    const struct cli_settings *settings = user;
    uint64_t now_ns = cli_now_ns();
    if (cli_interrupted())
        return false;
    if (settings->quiet || !isatty(STDERR_FILENO))
        return true;
    if (strncmp(bar.what, what, sizeof bar.what - 1) != 0) {
        cli_progress_end();
        snprintf(bar.what, sizeof bar.what, "%s", what);
        bar.begin_ns = now_ns;
    }
    if (now_ns - bar.begin_ns < PROGRESS_WAIT_NS || now_ns - bar.shown_ns < PROGRESS_STEP_NS)
        return true;
    draw(what, done, total);
    bar.shown = true;
    bar.shown_ns = now_ns;
    return true;
}

void cli_progress_end(void)
{
    if (bar.shown)
        fprintf(stderr, "\r%*s\r", BAR_WIDTH + 24, "");
    bar.shown = false;
    bar.what[0] = '\0';
}

void cli_note(const struct cli_settings *settings, const char *fmt, ...)
{
    va_list args;
    if (settings->quiet || settings->json || !isatty(STDERR_FILENO))
        return;
    cli_progress_end();
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

void cli_warn(const struct cli_settings *settings, const char *fmt, ...)
{
    va_list args;
    if (settings->quiet)
        return;
    cli_progress_end();
    fputs("kept: warning: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
}

static void write_log(void *user, enum kept_log_level level, const char *text)
{
    static const char *const names[] = {"", "error", "warning", "info", "debug"};
    const struct cli_settings *settings = user;
    if (settings->quiet || (level == KEPT_LOG_ERROR && settings->log_level < KEPT_LOG_INFO))
        return; /* errors come back as statuses and are said once */
    cli_progress_end();
    fprintf(stderr, "kept: %s: %s\n", names[level > 4 ? 4 : level], text);
}

struct kept_log cli_log(const struct cli_settings *settings)
{
    return (struct kept_log){
        .write = write_log, .user = (void *)settings, .level = settings->log_level};
}

const char *cli_bytes(char to[32], uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int i = 0;
    while (value >= 1024 && i < 4) {
        value /= 1024;
        i++;
    }
    snprintf(to, 32, i == 0 ? "%.0f %s" : "%.1f %s", value, units[i]);
    return to;
}
