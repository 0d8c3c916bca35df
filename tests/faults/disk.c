/*
 * A disk that fails on request, beneath one process: preloaded into the relay (LD_PRELOAD) by tests/it/harness/disk, it
 * stands between SQLite and the kernel for the files under one directory, and leaves everything else alone.
 *
 *   MIXRELAY_FAULTS_DIRECTORY  the store's directory, absolute and free of links
 *   MIXRELAY_FAULTS_RIG        the rig's own directory: `control` (struct control, mapped), `log`, `graves`
 *
 * It does two things. It fails what the control block asks it to fail, and it keeps a log of everything that is written
 * and not yet synced, with the bytes before and after. A power loss is not played here: the process is killed, and
 * whoever killed it works out from the log what such a disk may hold (harness/disk/loss.rs), so that what a killed
 * process leaves unsynced can still be lost while the next one runs.
 *
 * Order, under one lock: log, then do; sync, then log. What the log calls synced was synced before the caller heard of
 * it. The real sync is left out: only this log decides what survives.
 *
 * The write-ahead log's index (-shm) is mapped memory that SQLite makes anew after a crash: it is not logged, but takes
 * room like any other file. A database that is written through a mapping would escape the log, so that ends the process.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define VISIBLE __attribute__((visibility("default")))

/* The layout is known to harness/disk/mod.rs. Every field is eight bytes. */
struct control {
    /* Written by the rig. */
    int64_t clock_ms;     /* added to the wall clock */
    uint64_t room;        /* bytes by which files may still grow */
    uint64_t read_only;
    uint64_t delay_us;    /* the longest delay of a write or sync */
    uint64_t fail_sync;   /* the n-th sync from now fails, once; 0: none */
    uint64_t die;         /* the process dies at the n-th write, sync or change of a name from now; 0: never */
    uint64_t short_writes; /* so many of 256 writes are cut short, */
    uint64_t interrupted; /* and so many are interrupted */
    uint64_t lying;       /* syncs succeed and do nothing */
    uint64_t seed;
    /* Written here. */
    uint64_t operations;
    uint64_t syncs;
    uint64_t refused;     /* for want of room, or read-only */
};

enum kind { WRITE = 1, TRUNCATE, SYNC, FAILED_SYNC, CREATE, UNLINK, RENAME };

/* As harness/disk/loss.rs reads it, followed by `old_len` and `new_len` bytes. */
struct entry {
    uint64_t kind, sequence, inode, offset, old_size, old_len, new_len;
};

enum file_kind { OUTSIDE, LOGGED, INDEX };

#define FDS 65536
static uint8_t file_kinds[FDS];
static char directory[PATH_MAX], graves[PATH_MAX];
static size_t directory_len;
static struct control *control;
static int log_fd = -1;
static uint64_t sequence, random_state;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void give_up(const char *what) {
    dprintf(2, "tests/faults/disk.c: %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *store = getenv("MIXRELAY_FAULTS_DIRECTORY"), *rig = getenv("MIXRELAY_FAULTS_RIG");
    if (!store || !rig) return;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/control", rig);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) give_up(path);
    control = (void *)syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (control == MAP_FAILED) give_up(path);
    syscall(SYS_close, fd);
    snprintf(path, sizeof path, "%s/log", rig);
    log_fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (log_fd < 0) give_up(path);
    snprintf(graves, sizeof graves, "%s/graves", rig);
    /* A later process goes on with higher numbers in the same log. */
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    sequence = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    random_state = control->seed * 0x9e3779b97f4a7c15u | 1;
    snprintf(directory, sizeof directory, "%s", store);
    directory_len = strlen(directory);
}

/* ---- Small things ---- */

static uint64_t dice(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state >> 16;
}

static int is_inside(const char *path) {
    return directory_len && path && !strncmp(path, directory, directory_len)
        && (path[directory_len] == '/' || !path[directory_len]);
}

static enum file_kind kind_of(int fd) {
    return fd >= 0 && fd < FDS ? file_kinds[fd] : OUTSIDE;
}

static int is_index(const char *path) {
    size_t len = strlen(path);
    return len > 4 && !strcmp(path + len - 4, "-shm");
}

static struct stat status(int fd) {
    struct stat found;
    if (fstat(fd, &found)) give_up("fstat");
    return found;
}

static uint64_t parent_inode(const char *path) {
    char parent[PATH_MAX];
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash) *slash = 0;
    struct stat found;
    return stat(parent, &found) ? 0 : found.st_ino;
}

static void note(struct entry entry, const void *old, const void *new) {
    entry.sequence = ++sequence;
    struct iovec parts[3] = {
        {&entry, sizeof entry}, {(void *)old, entry.old_len}, {(void *)new, entry.new_len},
    };
    ssize_t whole = sizeof entry + entry.old_len + entry.new_len;
    if (syscall(SYS_writev, log_fd, parts, 3) != whole) give_up("the log");
}

/* The n-th from now is this one. */
static int strikes(uint64_t *count) {
    return *count && --*count == 0;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* In front of every write, sync and change of a name, without the lock. */
static void dawdle(void) {
    uint64_t longest = control->delay_us;
    if (longest) usleep(dice() % longest);
}

/* With the lock. Whether the process is to die of this operation. */
static int counted(void) {
    control->operations++;
    return strikes(&control->die);
}

/* ---- Files ---- */

static void *before(int fd, off_t offset, size_t len, size_t *got) {
    char *old = malloc(len ? len : 1);
    if (!old) give_up("malloc");
    ssize_t n = syscall(SYS_pread64, fd, old, len, offset);
    if (n < 0) {
        /* Opened for writing alone. */
        char self[64];
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        int again = syscall(SYS_openat, AT_FDCWD, self, O_RDONLY | O_CLOEXEC, 0);
        if (again < 0 || (n = syscall(SYS_pread64, again, old, len, offset)) < 0) give_up("reading what is overwritten");
        syscall(SYS_close, again);
    }
    *got = n;
    return old;
}

static ssize_t written(int fd, const void *bytes, size_t len, off_t offset) {
    dawdle();
    pthread_mutex_lock(&lock);
    int last = counted();
    ssize_t done = -1;
    struct stat is = status(fd);
    if (control->read_only) {
        control->refused++;
        errno = EROFS;
        goto out;
    }
    if (dice() % 256 < control->interrupted) {
        errno = EINTR;
        goto out;
    }
    if (len > 1 && dice() % 256 < control->short_writes) len = 1 + dice() % (len - 1);
    uint64_t end = offset + len, growth = end > (uint64_t)is.st_size ? end - is.st_size : 0;
    if (growth > control->room) {
        control->refused++;
        uint64_t missing = growth - control->room;
        if (missing >= len) {
            errno = ENOSPC;
            goto out;
        }
        /* As much as there is room for, as the kernel does. */
        len -= missing;
        growth -= missing;
    }
    if (control->room != UINT64_MAX) control->room -= growth;
    if (file_kinds[fd] == LOGGED) {
        size_t old_len;
        void *old = before(fd, offset, len, &old_len);
        note((struct entry){WRITE, 0, is.st_ino, offset, is.st_size, old_len, len}, old, bytes);
        free(old);
    }
    if (last) {
        syscall(SYS_pwrite64, fd, bytes, len / 2, offset);
        die();
    }
    done = syscall(SYS_pwrite64, fd, bytes, len, offset);
out:;
    int error = errno;
    if (last) die();
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

static ssize_t written_here(int fd, const void *bytes, size_t len) {
    off_t at = fcntl(fd, F_GETFL) & O_APPEND ? status(fd).st_size : lseek(fd, 0, SEEK_CUR);
    ssize_t done = written(fd, bytes, len, at);
    if (done > 0) lseek(fd, at + done, SEEK_SET);
    return done;
}

VISIBLE ssize_t write(int fd, const void *bytes, size_t len) {
    return kind_of(fd) ? written_here(fd, bytes, len) : syscall(SYS_write, fd, bytes, len);
}

VISIBLE ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t offset) {
    return kind_of(fd) ? written(fd, bytes, len, offset) : syscall(SYS_pwrite64, fd, bytes, len, offset);
}

VISIBLE ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset) {
    return pwrite64(fd, bytes, len, offset);
}

/* The first part alone: a short write, which every caller has to expect. */
static const struct iovec *first_part(const struct iovec *parts, int count) {
    while (count > 1 && !parts->iov_len) parts++, count--;
    return parts;
}

VISIBLE ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!kind_of(fd) || count < 1) return syscall(SYS_writev, fd, parts, count);
    const struct iovec *part = first_part(parts, count);
    return written_here(fd, part->iov_base, part->iov_len);
}

VISIBLE ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    if (!kind_of(fd) || count < 1) return syscall(SYS_pwritev, fd, parts, count, offset, 0);
    const struct iovec *part = first_part(parts, count);
    return written(fd, part->iov_base, part->iov_len, offset);
}

VISIBLE ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev64(fd, parts, count, offset);
}

VISIBLE int ftruncate64(int fd, off64_t size) {
    if (!kind_of(fd)) return syscall(SYS_ftruncate, fd, size);
    dawdle();
    pthread_mutex_lock(&lock);
    int last = counted(), done = -1, error = EROFS;
    struct stat is = status(fd);
    if (control->read_only) {
        control->refused++;
    } else {
        if (file_kinds[fd] == LOGGED && size != is.st_size) {
            size_t old_len = 0;
            void *old = before(fd, size, size < is.st_size ? is.st_size - size : 0, &old_len);
            note((struct entry){TRUNCATE, 0, is.st_ino, size, is.st_size, old_len, 0}, old, NULL);
            free(old);
        }
        if (last) die();
        done = syscall(SYS_ftruncate, fd, size);
        error = errno;
    }
    if (last) die();
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

VISIBLE int ftruncate(int fd, off_t size) {
    return ftruncate64(fd, size);
}

static int synced(int fd) {
    pthread_mutex_lock(&lock);
    uint64_t covered = sequence, inode = status(fd).st_ino;
    int last = counted(), fails = strikes(&control->fail_sync);
    control->syncs++;
    if (last) die();
    pthread_mutex_unlock(&lock);
    dawdle();
    pthread_mutex_lock(&lock);
    if (fails || !control->lying)
        note((struct entry){fails ? FAILED_SYNC : SYNC, 0, inode, covered, 0, 0, 0}, NULL, NULL);
    pthread_mutex_unlock(&lock);
    errno = EIO;
    return fails ? -1 : 0;
}

VISIBLE int fsync(int fd) {
    return kind_of(fd) ? synced(fd) : syscall(SYS_fsync, fd);
}

VISIBLE int fdatasync(int fd) {
    return kind_of(fd) ? synced(fd) : syscall(SYS_fdatasync, fd);
}

/* Promises nothing for a power loss, so it does nothing. */
VISIBLE int sync_file_range(int fd, off64_t offset, off64_t len, unsigned flags) {
    return kind_of(fd) ? 0 : syscall(SYS_sync_file_range, fd, offset, len, flags);
}

VISIBLE void *mmap64(void *address, size_t len, int protection, int flags, int fd, off64_t offset) {
    if (kind_of(fd) == LOGGED && flags & MAP_SHARED && protection & PROT_WRITE) give_up("a file is written through a mapping");
    return (void *)syscall(SYS_mmap, address, len, protection, flags, fd, offset);
}

VISIBLE void *mmap(void *address, size_t len, int protection, int flags, int fd, off_t offset) {
    return mmap64(address, len, protection, flags, fd, offset);
}

VISIBLE int close(int fd) {
    if (fd >= 0 && fd < FDS) file_kinds[fd] = OUTSIDE;
    return syscall(SYS_close, fd);
}

/* ---- Names ---- */

static int opened(const char *path, int flags, mode_t mode) {
    int changes = flags & (O_CREAT | O_TRUNC);
    struct stat is;
    pthread_mutex_lock(&lock);
    int new = flags & O_CREAT && lstat(path, &is), last = changes && counted(), error = EROFS, fd = -1;
    if (control->read_only && (flags & O_ACCMODE) != O_RDONLY) {
        control->refused++;
        goto out;
    }
    fd = syscall(SYS_openat, AT_FDCWD, path, flags & ~O_TRUNC, mode);
    error = errno;
    if (fd >= FDS) give_up("too many files are open");
    if (fd < 0) goto out;
    file_kinds[fd] = is_index(path) ? INDEX : LOGGED;
    if (new && file_kinds[fd] == LOGGED)
        note((struct entry){CREATE, 0, status(fd).st_ino, parent_inode(path), 0, 0, strlen(path)}, NULL, path);
out:
    if (last) die();
    pthread_mutex_unlock(&lock);
    if (fd >= 0 && flags & O_TRUNC && ftruncate64(fd, 0)) {
        error = errno;
        close(fd);
        fd = -1;
    }
    errno = error;
    return fd;
}

/* The mode, which is only there where a file may be made. */
#define MODE_OF(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

VISIBLE int openat64(int at, const char *path, int flags, ...) {
    MODE_OF(flags)
    return is_inside(path) ? opened(path, flags, mode) : syscall(SYS_openat, at, path, flags, mode);
}

VISIBLE int openat(int at, const char *path, int flags, ...) {
    MODE_OF(flags)
    return openat64(at, path, flags, mode);
}

VISIBLE int open64(const char *path, int flags, ...) {
    MODE_OF(flags)
    return openat64(AT_FDCWD, path, flags, mode);
}

VISIBLE int open(const char *path, int flags, ...) {
    MODE_OF(flags)
    return openat64(AT_FDCWD, path, flags, mode);
}

VISIBLE int creat(const char *path, mode_t mode) {
    return openat64(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

/* Keeps what loses its name, so that a power loss can bring it back. 0 when there is no such file. */
static uint64_t buried(const char *path) {
    struct stat is;
    if (lstat(path, &is)) return 0;
    char grave[PATH_MAX + 32];
    snprintf(grave, sizeof grave, "%s/%llu", graves, (unsigned long long)is.st_ino);
    if (linkat(AT_FDCWD, path, AT_FDCWD, grave, 0) && errno != EEXIST) give_up(grave);
    return is.st_ino;
}

static int removed(const char *path) {
    pthread_mutex_lock(&lock);
    int last = counted(), done = -1, error = EROFS;
    if (control->read_only) {
        control->refused++;
    } else {
        uint64_t inode = is_index(path) ? 0 : buried(path);
        if (inode) note((struct entry){UNLINK, 0, inode, parent_inode(path), 0, 0, strlen(path)}, NULL, path);
        done = syscall(SYS_unlinkat, AT_FDCWD, path, 0);
        error = errno;
    }
    if (last) die();
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

VISIBLE int unlinkat(int at, const char *path, int flags) {
    return is_inside(path) && !(flags & AT_REMOVEDIR) ? removed(path) : syscall(SYS_unlinkat, at, path, flags);
}

VISIBLE int unlink(const char *path) {
    return unlinkat(AT_FDCWD, path, 0);
}

VISIBLE int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    if (!is_inside(from) || !is_inside(to)) return syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    pthread_mutex_lock(&lock);
    int last = counted(), done = -1, error = EROFS;
    if (control->read_only) {
        control->refused++;
    } else {
        uint64_t replaced = buried(to);
        note((struct entry){RENAME, 0, replaced, parent_inode(to), 0, strlen(from), strlen(to)}, from, to);
        done = syscall(SYS_renameat2, from_at, from, to_at, to, flags);
        error = errno;
    }
    if (last) die();
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

VISIBLE int renameat(int from_at, const char *from, int to_at, const char *to) {
    return renameat2(from_at, from, to_at, to, 0);
}

VISIBLE int rename(const char *from, const char *to) {
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* ---- The wall clock ---- */

VISIBLE int clock_gettime(clockid_t clock, struct timespec *now) {
    int done = syscall(SYS_clock_gettime, clock, now);
    if (!done && control && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t shifted = now->tv_nsec + control->clock_ms % 1000 * 1000000;
        now->tv_sec += control->clock_ms / 1000 + (shifted >= 1000000000) - (shifted < 0);
        now->tv_nsec = shifted + (shifted < 0 ? 1000000000 : shifted >= 1000000000 ? -1000000000 : 0);
    }
    return done;
}

VISIBLE int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int done = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return done;
}

VISIBLE time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
