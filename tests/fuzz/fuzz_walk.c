/* The whole dump over images of real processes with any bytes changed.  Normal context.
 *
 * With -fsanitize=fuzzer an entry for libFuzzer, whose corpus is in tests/fuzz/corpus.  Else (FP_REPLAY) a program:
 *     replay_images NUMBER IMAGE ...        tries NUMBER damaged versions, each image's turn after the other's
 * It prints the longest walk in reads, and has hung if a walk takes longer than a minute.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../c/dump_all.h"
#include "ext/image.h"

static struct fp_image image;

/* A dump of all threads into `fd`, as if they stood still or as if they ran; returns how many reads it took. */
static uint64_t dump(int fd, bool still)
{
    image.reads = 0;
    dump_all(fd, &(struct dump_all){&image.target, fp_image_copy, &image, image.head.thread_id, still, false});
    return image.reads;
}

#ifndef FP_REPLAY

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static int null_fd = -1;
    if (null_fd < 0)
        null_fd = open("/dev/null", O_WRONLY);
    if (fp_image_load(&image, data, size))
        dump(null_fd, size % 4 != 0);
    return 0;
}

#else

enum { FILE_SIZE = 1 << 20, TEXT_SIZE = 1 << 17, SECONDS = 60 };

static uint64_t seed = 1;

static uint64_t chance(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

/* A change of one place: a byte, a word that becomes another block's address or a number, and of the words those that
   are pointers as a rule: links of frames and threads, code objects, types, line tables, texts. */
static void damage_once(void)
{
    struct fp_image_block *block = &image.blocks[chance() % image.n_blocks];
    uint64_t word, other = image.blocks[chance() % image.n_blocks].address + chance() % FP_IMAGE_BLOCK;
    size_t at = chance() % FP_IMAGE_BLOCK / 8 * 8;

    for (int i = 0; i < 16; i++) { /* look for a pointer */
        memcpy(&word, block->bytes + at, 8);
        if (fp_image_find(&image, word / FP_IMAGE_BLOCK * FP_IMAGE_BLOCK) != NULL)
            break;
        at = (at + 8) % FP_IMAGE_BLOCK;
    }
    switch (chance() % 5) {
    case 0:
        block->bytes[chance() % FP_IMAGE_BLOCK] = (unsigned char)chance();
        return;
    case 1: /* somewhere else */
        word = other;
        break;
    case 2: /* at another object, as aligned as this one */
        word = (other & ~(uint64_t)15) | (word & 15);
        break;
    case 3: /* some bytes away */
        word += chance() % 64 * 8 - 256;
        break;
    default: /* a length, a count, anywhere */
        at = chance() % FP_IMAGE_BLOCK / 8 * 8;
        word = chance() >> (chance() % 64);
    }
    memcpy(block->bytes + at, &word, 8);
}

static size_t read_file(const char *path, unsigned char *data)
{
    FILE *file = fopen(path, "rb");
    size_t n = file ? fread(data, 1, FILE_SIZE, file) : 0;
    if (file == NULL || fclose(file) != 0 || !fp_image_load(&image, data, n)) {
        fprintf(stderr, "%s: not an image\n", path);
        exit(1);
    }
    return n;
}

/* An image that isn't damaged has all its stacks in both ways of reading. */
static void check_sound(const char *path)
{
    static char text[TEXT_SIZE];
    for (int still = 0; still < 2; still++) {
        int fd = memfd_create("text", 0), stacks = 0;
        dump(fd, still != 0);
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
        text[n > 0 ? n : 0] = 0;
        for (const char *at = text; (at = strstr(at, "in waits_in_")) != NULL; at++)
            stacks++;
        if (stacks != 8 || strstr(text, " in current\n") == NULL || strstr(text, "<unreadable") != NULL) {
            fprintf(stderr, "%s, still %d: not what was recorded:\n%s\n", path, still, text);
            exit(1);
        }
        close(fd);
    }
}

int main(int argc, char **argv)
{
    static unsigned char data[FILE_SIZE];
    uint64_t total = argc > 2 ? strtoull(argv[1], NULL, 10) : 0, longest = 0, done = 0;
    int null_fd = open("/dev/null", O_WRONLY);

    for (int i = 2; i < argc; i++) {
        size_t size = read_file(argv[i], data);
        uint64_t count = total / (uint64_t)(argc - 2);
        check_sound(argv[i]);
        for (uint64_t k = 0; k < count; k++, done++) {
            (void)fp_image_load(&image, data, size);
            for (uint64_t changes = 1 + chance() % 8; changes > 0; changes--)
                damage_once();
            image.fail_at = chance() % 8 == 0 ? 1 + chance() % 4096 : 0;
            alarm(SECONDS);
            uint64_t reads = dump(null_fd, k % 8 != 0);
            longest = reads > longest ? reads : longest;
        }
    }
    printf("%llu damaged images of %d processes, longest walk: %llu reads\n", (unsigned long long)done, argc - 2,
           (unsigned long long)longest);
    return argc > 2 ? 0 : 2;
}

#endif
