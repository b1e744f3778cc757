/* What the C tests share: checks that end a case; each case runs in a child, so that a crash becomes a report. */
#ifndef FP_CHECK_H
#define FP_CHECK_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define CHECK_EQUAL(a, b)                                                                                              \
    do {                                                                                                               \
        unsigned long long a_ = (unsigned long long)(a), b_ = (unsigned long long)(b);                                 \
        if (a_ != b_) {                                                                                                \
            fprintf(stderr, "%s:%d: %s is %#llx, not %s, %#llx\n", __FILE__, __LINE__, #a, a_, #b, b_);                \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

struct check_case {
    const char *name;
    void (*run)(void);
};

/* A case that takes so long has hung. */
enum { CHECK_SECONDS = 60 };

static inline int check_all(const struct check_case *cases, size_t n)
{
    int failed = 0;
    for (size_t i = 0; i < n; i++) {
        int status = 0;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(CHECK_SECONDS);
            cases[i].run();
            exit(0);
        }
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
            fprintf(stderr, "FAILED %s (wait status %#x)\n", cases[i].name, (unsigned)status);
            failed = 1;
        }
        else {
            printf("ok %s\n", cases[i].name);
        }
    }
    return failed;
}

#define CHECK_MAIN(cases)                                                                                              \
    int main(void)                                                                                                     \
    {                                                                                                                  \
        return check_all(cases, sizeof(cases) / sizeof((cases)[0]));                                                   \
    }

#endif
