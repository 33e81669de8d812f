/* Preloaded into a program: numbers its system calls that change files below some folders, and lets one of them fail.
 *
 * Environment, read at every call, so that it may be set after the start:
 *   FAILING_UNDER   the folders, separated by ':'; without it nothing happens
 *   FAILING_LOG     the file that gets "NUMBER CALL PATH" for each such call, or for the failing one alone
 *   FAILING_NUMBER  the number of the one that fails, from 1 on; without it none does
 *   FAILING_ERRNO   what it fails with
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static long counted;

/* The open file's path, "" for what has none. */
static void path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static int below(const char *path, const char *folders) {
    while (*folders) {
        const size_t length = strcspn(folders, ":");
        if (!strncmp(path, folders, length) && (path[length] == '/' || !path[length])) return 1;
        folders += length + (folders[length] == ':');
    }
    return 0;
}

static void note(long number, const char *call, const char *path) {
    const char *const log = getenv("FAILING_LOG");
    char line[PATH_MAX + 64];
    const int length = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path);
    const int file = log ? syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    if (file < 0) return;
    syscall(SYS_write, file, line, length);
    syscall(SYS_close, file);
}

/* Whether this call is the one that fails; errno is set then. name may be NULL: the folder or file itself. */
static int fails(const char *call, int folder, const char *name) {
    const char *const under = getenv("FAILING_UNDER"), *const chosen = getenv("FAILING_NUMBER");
    if (!under) return 0;
    const int before = errno;
    char path[2 * PATH_MAX] = "";
    if (!name || name[0] != '/') {
        if (folder == AT_FDCWD) getcwd(path, PATH_MAX);
        else path_of(folder, path);
    }
    if (name) snprintf(path + strlen(path), PATH_MAX, "%s%s", name[0] == '/' ? "" : "/", name);
    errno = before;
    if (!below(path, under)) return 0;
    const long number = __atomic_add_fetch(&counted, 1, __ATOMIC_SEQ_CST);
    if (chosen && number != atol(chosen)) return 0;
    note(number, call, path);
    errno = before;
    if (!chosen) return 0;
    errno = atoi(getenv("FAILING_ERRNO"));
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CHANGES(flags) ((flags) & (O_WRONLY | O_RDWR | O_CREAT))

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        const mode_t mode = va_arg(rest, mode_t);                             \
        va_end(rest);                                                         \
        if (CHANGES(flags) && fails("open", AT_FDCWD, path)) return -1;       \
        return REAL(name)(path, flags, mode);                                 \
    }
#define OPENAT(name)                                                          \
    int name(int folder, const char *path, int flags, ...) {                  \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        const mode_t mode = va_arg(rest, mode_t);                             \
        va_end(rest);                                                         \
        if (CHANGES(flags) && fails("open", folder, path)) return -1;         \
        return REAL(name)(folder, path, flags, mode);                         \
    }
#define CALL(type, name, parameters, arguments, folder, path)                 \
    type name parameters {                                                    \
        if (fails(#name, folder, path)) return -1;                            \
        return REAL(name) arguments;                                          \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
CALL(ssize_t, write, (int file, const void *bytes, size_t count), (file, bytes, count), file, NULL)
CALL(ssize_t, pwrite, (int file, const void *bytes, size_t count, off_t at), (file, bytes, count, at), file, NULL)
CALL(ssize_t, pwrite64, (int file, const void *bytes, size_t count, off64_t at), (file, bytes, count, at), file, NULL)
CALL(int, fsync, (int file), (file), file, NULL)
CALL(int, fdatasync, (int file), (file), file, NULL)
CALL(int, ftruncate, (int file, off_t size), (file, size), file, NULL)
CALL(int, ftruncate64, (int file, off64_t size), (file, size), file, NULL)
CALL(int, truncate, (const char *path, off_t size), (path, size), AT_FDCWD, path)
CALL(int, truncate64, (const char *path, off64_t size), (path, size), AT_FDCWD, path)
CALL(int, rename, (const char *from, const char *to), (from, to), AT_FDCWD, to)
CALL(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), b, to)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
CALL(int, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode), folder, path)
CALL(int, rmdir, (const char *path), (path), AT_FDCWD, path)
CALL(int, unlink, (const char *path), (path), AT_FDCWD, path)
CALL(int, unlinkat, (int folder, const char *path, int flags), (folder, path, flags), folder, path)
CALL(int, utimensat, (int folder, const char *path, const struct timespec times[2], int flags),
     (folder, path, times, flags), folder, path)
