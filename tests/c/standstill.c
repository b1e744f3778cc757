/* When a chain that is read by system calls counts as certain: an interpreter's memory that changes between two reads.
 * Normal context.
 */
#include "check.h"
#include "walk/walk.h"

enum { FRAMES = 6, FRAME_SIZE = 128, CODE = 0x1000 };

static uint64_t runtime[4096], interp[2048], other_interp[2048], gil[16], tstate[512];
static unsigned char frames[FRAMES][FRAME_SIZE] __attribute__((aligned(8))); /* 0 is the root */
static struct fp_target target;
static struct fp_walk_memory memory;
static struct fp_walk walk;
static uint64_t reads;          /* of anything */
static void (*change)(fp_addr); /* called before each read with its address; NULL: nothing changes */

static fp_addr address(const void *of)
{
    return (fp_addr)(uintptr_t)of;
}

static void put(void *base, int32_t offset, uint64_t value, size_t size)
{
    memcpy((char *)base + offset, &value, size);
}

static int copy(struct fp_reader *r, void *to, fp_addr from, size_t n)
{
    (void)r;
    reads++;
    if (change != NULL)
        change(from);
    memcpy(to, (const void *)(uintptr_t)from, n);
    return 0;
}

static struct fp_reader reader = {.kind = FP_READER_VM, .fds = {-1, -1}, .copy = copy};

static void put_frame(int i, uint64_t instruction)
{
    const struct fp_layout *l = &target.layout;
    put(frames[i], l->frame_previous, i > 0 ? address(frames[i - 1]) : 0, 8);
    put(frames[i], l->frame_code, CODE * (uint64_t)(i + 1), 8);
    put(frames[i], l->frame_instr, instruction, 4);
    if (l->frame_owner >= 0)
        put(frames[i], l->frame_owner, i == 0 ? (uint64_t)l->owner_entry : 0, 1);
}

static void put_holder(fp_addr holder)
{
    void *at = target.layout.runtime_gil >= 0 ? (char *)runtime + target.layout.runtime_gil : (char *)gil;
    put(at, target.layout.gil_last_holder, holder, 8);
}

/* A thread of FRAMES frames in an interpreter of that version, whose GIL another thread has. */
static void begin(uint32_t version)
{
    target = (struct fp_target){.version = version, .runtime = address(runtime)};
    const struct fp_layout *row = fp_layout_row(&target);
    CHECK(row != NULL);
    target.layout = *row;
    put(runtime, row->runtime_interpreters_head, address(interp), 8);
    put(tstate, row->tstate_interp, address(interp), 8);
    put(tstate, row->tstate_frame, address(frames[FRAMES - 1]), 8);
    if (row->interp_gil >= 0)
        put(interp, row->interp_gil, address(gil), 8);
    put_holder(address(other_interp));
    for (int i = 0; i < FRAMES; i++)
        put_frame(i, 100);
    fp_walk_lend(&walk, &memory);
    fp_walk_init(&walk, &reader, &target, false);
    reads = 0;
}

static void who_waits_for_the_gil_is_read_once(void)
{
    const uint32_t versions[] = {0x03090000, 0x030a0000, 0x030d0000, 0x030e0000, 0x030f0000};
    for (size_t i = 0; i < FP_COUNT(versions); i++) {
        begin(versions[i]);
        CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_OK);
        CHECK_EQUAL(walk.n_raw, FRAMES);
        CHECK(reads < 4 * FRAMES);
    }
}

static void who_had_the_gil_last_is_read_often(void)
{
    begin(0x030d0000);
    put_holder(address(tstate));
    CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_OK);
    CHECK_EQUAL(walk.n_raw, FRAMES);
    CHECK(reads >= 32 * FRAMES);
}

/* Up to 3.11 a thread may go on with the other interpreter's state without the GIL's knowledge. */
static void of_two_interpreters_an_old_gil_tells_nothing(void)
{
    begin(0x030a0000);
    put(interp, target.layout.interp_next, address(other_interp), 8);
    CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_OK);
    CHECK(reads >= 32 * FRAMES);
}

static void the_gil_goes_round(fp_addr from)
{
    static uint64_t switches;
    if (from == address(frames[2])) {
        put(gil, target.layout.gil_switches, switches += 2, 8);
        put_frame(3, 100 + reads % 7); /* the thread had it meanwhile */
    }
}

static void a_gil_that_went_round_tells_nothing(void)
{
    begin(0x030d0000);
    change = the_gil_goes_round;
    CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_CHANGED);
    CHECK_EQUAL(walk.n_raw, 3);
    CHECK_EQUAL(walk.raw[0].frame, address(frames[2]));
    CHECK_EQUAL(walk.raw[2].frame, address(frames[0]));
}

static int out_of_step; /* in every such reading the loop falls out of step */

/* Each reading sees frame 4 as it is in the loop's first half, and frame 3 as it is in the second. */
static void loop_in_step(fp_addr from)
{
    static int reading;
    if (from == address(frames[4]))
        put_frame(4, 1000);
    if (from == address(frames[3]))
        put_frame(3, ++reading % out_of_step == 0 ? 2001 : 2000);
}

static void one_reading_that_differs_is_enough(void)
{
    for (out_of_step = 2; out_of_step <= 32; out_of_step++) {
        pid_t child = fork();
        if (child == 0) {
            begin(0x030d0000);
            put_holder(address(tstate));
            change = loop_in_step;
            CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_CHANGED);
            CHECK_EQUAL(walk.n_raw, 3);
            exit(0);
        }
        int status = 1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}

static void comes_to_rest(fp_addr from)
{
    static int reading;
    if (from == address(frames[4]) && ++reading <= 20)
        put_frame(4, (uint64_t)reading);
}

static void who_comes_to_rest_is_waited_for(void)
{
    begin(0x030d0000);
    put_holder(address(tstate));
    change = comes_to_rest;
    CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_OK);
    CHECK_EQUAL(walk.n_raw, FRAMES);
}

static void another_root(fp_addr from)
{
    if (from == address(frames[0]))
        put(frames[0], target.layout.frame_code, CODE * reads, 8);
}

static void chains_that_have_nothing_in_common_show_nothing(void)
{
    begin(0x030d0000);
    put_holder(address(tstate));
    change = another_root;
    CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_CHANGED);
    CHECK_EQUAL(walk.n_raw, 0);
    CHECK(reads < 1000 * FRAMES);
}

static void no_frame(void)
{
    begin(0x030d0000);
    put(tstate, target.layout.tstate_frame, 0, 8);
    CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_NO_FRAME);
}

static void whether_it_holds(void)
{
    begin(0x030d0000);
    CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_OK);
    CHECK(fp_standstill_holds(&walk, address(tstate), FP_OK));
    put_frame(4, 7);
    CHECK(!fp_standstill_holds(&walk, address(tstate), FP_OK));

    begin(0x030d0000);
    change = the_gil_goes_round;
    CHECK_EQUAL(fp_standstill_read(&walk, address(tstate)), FP_CHANGED);
    CHECK(fp_standstill_holds(&walk, address(tstate), FP_CHANGED));
    CHECK_EQUAL(walk.n_raw, 3);
    put_frame(1, 7);
    CHECK(!fp_standstill_holds(&walk, address(tstate), FP_CHANGED));
    CHECK_EQUAL(walk.n_raw, 0);
}

static const struct check_case cases[] = {
    {"who waits for the GIL is read once", who_waits_for_the_gil_is_read_once},
    {"who had the GIL last is read often", who_had_the_gil_last_is_read_often},
    {"of two interpreters an old GIL tells nothing", of_two_interpreters_an_old_gil_tells_nothing},
    {"a GIL that went round tells nothing", a_gil_that_went_round_tells_nothing},
    {"one reading that differs is enough", one_reading_that_differs_is_enough},
    {"who comes to rest is waited for", who_comes_to_rest_is_waited_for},
    {"chains that have nothing in common show nothing", chains_that_have_nothing_in_common_show_nothing},
    {"no frame", no_frame},
    {"whether it holds", whether_it_holds},
};
CHECK_MAIN(cases)
