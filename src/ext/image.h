/* Images of real processes: what a dump of all threads read there, in blocks.  Normal context.
 *
 * A file is a head and then blocks, each its address and FP_IMAGE_BLOCK bytes, all little-endian; faultproof's private
 * probe _image() writes one.  A walk over an image reads its blocks; every other read fails.
 */
#ifndef FP_IMAGE_H
#define FP_IMAGE_H

#include <string.h>

#include "layout/layout.h"

enum { FP_IMAGE_BLOCK = 64, FP_IMAGE_BLOCKS = 4096 };

struct fp_image_head {
    char magic[8]; /* "fpimage1" */
    uint32_t version, free_threaded;
    uint64_t runtime, code_type, str_type, bytes_type, dict_type, frozenset_type, module_type;
    uint64_t thread_id; /* of the thread that was current */
};

struct fp_image_block {
    uint64_t address; /* a multiple of FP_IMAGE_BLOCK */
    unsigned char bytes[FP_IMAGE_BLOCK];
};

struct fp_image {
    struct fp_image_head head;
    struct fp_target target;
    uint32_t n_blocks;
    struct fp_image_block blocks[FP_IMAGE_BLOCKS];
    uint16_t index[2 * FP_IMAGE_BLOCKS]; /* a hash table of block numbers from 1; 0: empty */
    uint64_t reads, fail_at;             /* fail_at: this read fails; 0: none does */
};

static inline uint16_t *fp_image_slot(struct fp_image *image, uint64_t address)
{
    uint64_t hash = (address / FP_IMAGE_BLOCK) * 0x9e3779b97f4a7c15;
    uint32_t at = (uint32_t)(hash >> 32) % FP_COUNT(image->index);
    while (image->index[at] != 0 && image->blocks[image->index[at] - 1].address != address)
        at = (at + 1) % FP_COUNT(image->index);
    return &image->index[at];
}

/* The block at that address; NULL: there is none. */
static inline struct fp_image_block *fp_image_find(struct fp_image *image, uint64_t address)
{
    uint16_t number = *fp_image_slot(image, address);
    return number ? &image->blocks[number - 1] : NULL;
}

/* A new block, zeroed; NULL: the image is full. */
static inline struct fp_image_block *fp_image_add(struct fp_image *image, uint64_t address)
{
    if (image->n_blocks == FP_IMAGE_BLOCKS)
        return NULL;
    uint16_t *slot = fp_image_slot(image, address);
    if (*slot == 0) {
        *slot = (uint16_t)++image->n_blocks;
        image->blocks[*slot - 1] = (struct fp_image_block){.address = address};
    }
    return &image->blocks[*slot - 1];
}

/* False: this isn't an image that the table has a layout for. */
static inline bool fp_image_load(struct fp_image *image, const unsigned char *data, size_t size)
{
    struct fp_image_block block;

    memset(image->index, 0, sizeof(image->index));
    image->n_blocks = 0;
    image->reads = image->fail_at = 0;
    if (size < sizeof(image->head))
        return false;
    memcpy(&image->head, data, sizeof(image->head));
    const struct fp_image_head *h = &image->head;
    if (memcmp(h->magic, "fpimage1", 8) != 0)
        return false;
    for (size_t at = sizeof(*h); at + sizeof(block) <= size; at += sizeof(block)) {
        memcpy(&block, data + at, sizeof(block));
        struct fp_image_block *own = fp_image_add(image, block.address / FP_IMAGE_BLOCK * FP_IMAGE_BLOCK);
        if (own == NULL)
            break;
        memcpy(own->bytes, block.bytes, sizeof(block.bytes));
    }
    image->target = (struct fp_target){.version = h->version,
                                       .free_threaded = h->free_threaded != 0,
                                       .runtime = h->runtime,
                                       .code_type = h->code_type,
                                       .str_type = h->str_type,
                                       .bytes_type = h->bytes_type,
                                       .dict_type = h->dict_type,
                                       .frozenset_type = h->frozenset_type,
                                       .module_type = h->module_type};
    const struct fp_layout *row = fp_layout_row(&image->target);
    if (row != NULL)
        image->target.layout = *row;
    return row != NULL;
}

/* The reader's copy: reader->context is the image. */
static inline int fp_image_copy(struct fp_reader *reader, void *to, fp_addr from, size_t n)
{
    struct fp_image *image = reader->context;
    unsigned char *out = to;

    if (++image->reads == image->fail_at || from + n < from)
        return -1;
    while (n > 0) {
        struct fp_image_block *block = fp_image_find(image, from / FP_IMAGE_BLOCK * FP_IMAGE_BLOCK);
        size_t at = from % FP_IMAGE_BLOCK, piece = FP_IMAGE_BLOCK - at < n ? FP_IMAGE_BLOCK - at : n;
        if (block == NULL)
            return -1;
        memcpy(out, block->bytes + at, piece);
        out += piece;
        from += piece;
        n -= piece;
    }
    return 0;
}

#endif
