/* The limit of the C API's scratch memory: who gets it, who doesn't, and what a fork leaves.  Normal context. */
#include <pthread.h>
#include <sys/wait.h>

#include "api/api.h"
#include "check.h"

enum { LIMIT = 16, THREADS = 24, ROUNDS = 2000 };

static void take_all(struct fp_scratch **all)
{
    for (int i = 0; i < LIMIT; i++) {
        CHECK((all[i] = fp_scratch_take()) != NULL);
        for (int j = 0; j < i; j++)
            CHECK(all[j] != all[i]);
    }
}

static void the_next_one_gets_none(void)
{
    struct fp_scratch *all[LIMIT];
    take_all(all);
    int64_t start = fp_now_ns();
    CHECK(fp_scratch_take() == NULL);
    CHECK(fp_now_ns() - start >= FP_SCRATCH_WAIT_NS);
    fp_scratch_give(all[5]);
    CHECK(fp_scratch_take() == all[5]);
    fp_scratch_give(NULL);
    CHECK(fp_scratch_take() == NULL);
}

static void a_child_has_them_all(void)
{
    struct fp_scratch *all[LIMIT];
    take_all(all);
    pid_t child = fork();
    if (child == 0) {
        take_all(all); /* its parent's threads aren't there to give them back */
        CHECK(fp_scratch_take() == NULL);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(fp_scratch_take() == NULL);
}

/* Each marks what it holds as its own, and gives it back. */
static void *use(void *mark)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct fp_scratch *s = fp_scratch_take();
        if (s == NULL)
            continue; /* on a loaded machine the wait may end before anybody gives one back */
        s->list[0] = (fp_addr)(uintptr_t)mark;
        s->list[FP_LIST_MAX - 1] = (fp_addr)(uintptr_t)mark + (fp_addr)i;
        CHECK(s->list[0] == (fp_addr)(uintptr_t)mark);
        CHECK(s->list[FP_LIST_MAX - 1] == (fp_addr)(uintptr_t)mark + (fp_addr)i);
        fp_scratch_give(s);
    }
    return NULL;
}

static void one_at_a_time_has_one(void)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, use, &threads[i]) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    struct fp_scratch *all[LIMIT];
    take_all(all); /* all came back */
}

int main(void)
{
    static const struct check_case cases[] = {
        {"the next one gets none", the_next_one_gets_none},
        {"a child has them all", a_child_has_them_all},
        {"one at a time has one", one_at_a_time_has_one},
    };
    return check_all(cases, sizeof cases / sizeof *cases);
}
