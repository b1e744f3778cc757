/* The kept descriptor and what it was.  Any context: its system call is fstat (man 7 signal-safety). */
#include <errno.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "render/kept.h"

static struct {
    atomic_int fd; /* -1: none; written after the rest */
    dev_t device;
    ino_t inode;
    mode_t type;
} kept = {.fd = -1};

static bool is_kept_file(const struct stat *now)
{
    return now->st_dev == kept.device && now->st_ino == kept.inode && (now->st_mode & S_IFMT) == kept.type;
}

int fp_kept_remember(int fd)
{
    struct stat now;
    if (fstat(fd, &now) != 0)
        return errno;
    atomic_store(&kept.fd, -1);
    kept.device = now.st_dev;
    kept.inode = now.st_ino;
    kept.type = now.st_mode & S_IFMT;
    atomic_store(&kept.fd, fd);
    return 0;
}

static bool is_there(int fd)
{
    int saved = errno;
    struct stat now;
    bool there = fstat(fd, &now) == 0 && is_kept_file(&now);
    errno = saved;
    return there;
}

int fp_kept_resolve(int fd)
{
    if (fd < 0 || fd != atomic_load(&kept.fd))
        return fd;
    return is_there(fd) ? fd : STDERR_FILENO;
}

bool fp_kept_is_stderr(int fd)
{
    if (fp_kept_resolve(fd) == STDERR_FILENO)
        return true;
    return fd >= 0 && fd == atomic_load(&kept.fd) && is_there(STDERR_FILENO);
}
