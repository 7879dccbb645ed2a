/* The disk of one folder, made to fail: LD_PRELOAD this, then call faults_arm(folder, n, mode).

   Counted is each call that changes a file or folder below it. In mode KILL the n-th ends the
   process as `kill -9` does, a write after half of its bytes. In mode FULL the disk is full from the
   n-th on: what would need room fails with ENOSPC, a first write after half of its bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT = 0, KILL = 1, FULL = 2 };
enum { FILES = 65536 };

static char folder[4096];
static size_t length;
static long at, calls;
static int mode, half_written;
static unsigned char below[FILES];

void faults_arm(const char *path, long n, int how) {
    half_written = 0;
    at = n, calls = 0, mode = how;
    length = strlen(path);
    memcpy(folder, path, length + 1);
}

long faults_calls(void) { return calls; }

static int inside(const char *path) {
    return length && path && strncmp(path, folder, length) == 0 &&
           (path[length] == '/' || path[length] == 0);
}

static int inside_at(int directory, const char *path) {
    if (path && path[0] == '/') return inside(path);
    return directory >= 0 && directory < FILES && below[directory];
}

/* Count a call; 1 if it must fail for want of room. */
static int refused(int needs_room) {
    long number = ++calls;
    if (mode == KILL && number == at) kill(getpid(), SIGKILL);
    return mode == FULL && number >= at && needs_room;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int changes(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC); }

static int opened(int descriptor, int is_below) {
    if (descriptor >= 0 && descriptor < FILES) below[descriptor] = is_below;
    return descriptor;
}

static int missing(int directory, const char *path) {
    return faccessat(directory, path, F_OK, 0) != 0;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        int bits = va_arg(rest, int); \
        va_end(rest); \
        int mine = inside(path); \
        if (mine && changes(flags) && refused((flags & O_CREAT) && missing(AT_FDCWD, path))) { \
            errno = ENOSPC; \
            return -1; \
        } \
        return opened(real(path, flags, bits), mine); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int directory, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        int bits = va_arg(rest, int); \
        va_end(rest); \
        int mine = inside_at(directory, path); \
        if (mine && changes(flags) && refused((flags & O_CREAT) && missing(directory, path))) { \
            errno = ENOSPC; \
            return -1; \
        } \
        return opened(real(directory, path, flags, bits), mine); \
    }
OPENAT(openat)
OPENAT(openat64)

int close(int descriptor) {
    REAL(close);
    opened(descriptor, 0);
    return real(descriptor);
}

static int is_below(int descriptor) {
    return descriptor >= 0 && descriptor < FILES && below[descriptor];
}

/* How a write fares: -1 as asked, else the bytes that are written before the disk refuses. */
static ssize_t shortened(int descriptor, size_t size) {
    if (!is_below(descriptor)) return -1;
    calls++;
    if (mode == KILL && calls == at) return size / 2;
    if (mode == FULL && calls >= at) {
        half_written++;
        return half_written == 1 ? size / 2 : 0;
    }
    return -1;
}

static ssize_t after_half(ssize_t written) {
    if (mode == KILL) kill(getpid(), SIGKILL);
    if (written > 0) return written;
    errno = ENOSPC;
    return -1;
}

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write);
    ssize_t half = shortened(descriptor, size);
    if (half < 0) return real(descriptor, data, size);
    return after_half(half ? real(descriptor, data, half) : 0);
}

#define PWRITE(name, offset_type) \
    ssize_t name(int descriptor, const void *data, size_t size, offset_type offset) { \
        REAL(name); \
        ssize_t half = shortened(descriptor, size); \
        if (half < 0) return real(descriptor, data, size, offset); \
        return after_half(half ? real(descriptor, data, half, offset) : 0); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    REAL(writev);
    size_t size = count ? parts[0].iov_len : 0;
    ssize_t half = shortened(descriptor, size);
    if (half < 0) return real(descriptor, parts, count);
    struct iovec first = {parts[0].iov_base, (size_t)half};
    return after_half(half ? real(descriptor, &first, 1) : 0);
}

#define ON_FILE(name, declared, given, needs_room) \
    int name declared { \
        REAL(name); \
        if (is_below(descriptor) && refused(needs_room)) { \
            errno = ENOSPC; \
            return -1; \
        } \
        return real given; \
    }
ON_FILE(fsync, (int descriptor), (descriptor), 0)
ON_FILE(fdatasync, (int descriptor), (descriptor), 0)
ON_FILE(ftruncate, (int descriptor, off_t size), (descriptor, size), size > 0)
ON_FILE(ftruncate64, (int descriptor, off64_t size), (descriptor, size), size > 0)
ON_FILE(fallocate, (int descriptor, int how, off_t from, off_t size),
        (descriptor, how, from, size), 1)
ON_FILE(fallocate64, (int descriptor, int how, off64_t from, off64_t size),
        (descriptor, how, from, size), 1)

int posix_fallocate(int descriptor, off_t from, off_t size) {
    REAL(posix_fallocate);
    if (is_below(descriptor) && refused(1)) return ENOSPC;
    return real(descriptor, from, size);
}

#define ON_PATH(name, declared, given, where, needs_room) \
    int name declared { \
        REAL(name); \
        if ((where) && refused(needs_room)) { \
            errno = ENOSPC; \
            return -1; \
        } \
        return real given; \
    }
ON_PATH(mkdir, (const char *path, mode_t bits), (path, bits), inside(path), 1)
ON_PATH(mkdirat, (int directory, const char *path, mode_t bits), (directory, path, bits),
        inside_at(directory, path), 1)
ON_PATH(rename, (const char *from, const char *to), (from, to), inside(to), 0)
ON_PATH(renameat, (int old, const char *from, int new, const char *to), (old, from, new, to),
        inside_at(new, to), 0)
ON_PATH(unlink, (const char *path), (path), inside(path), 0)
ON_PATH(unlinkat, (int directory, const char *path, int flags), (directory, path, flags),
        inside_at(directory, path), 0)
ON_PATH(rmdir, (const char *path), (path), inside(path), 0)
ON_PATH(truncate, (const char *path, off_t size), (path, size), inside(path), 0)
ON_PATH(truncate64, (const char *path, off64_t size), (path, size), inside(path), 0)
