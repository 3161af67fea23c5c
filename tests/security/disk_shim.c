/* Loaded before the C library: writes what a process does to its files, as strace would print it, to the descriptor
   of DISK_SHIM_LOG; makes every fdatasync from the DISK_SHIM_FAIL-th on fail with EIO. For tests. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int log_descriptor(void) {
    static int descriptor = -2;
    if (descriptor == -2) {
        const char *name = getenv("DISK_SHIM_LOG");
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
        descriptor = name ? fcntl(real(name, O_WRONLY | O_CREAT | O_APPEND, 0600), F_DUPFD_CLOEXEC, 900) : -1;
    }
    return descriptor;
}

static void say(const char *format, ...) {
    char line[512];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (log_descriptor() >= 0) real(log_descriptor(), line, (size_t)size);
}

static void say_bytes(const void *content, size_t size) {
    const unsigned char *bytes = content;
    char text[4 * 256];
    say("\"");
    while (size) {
        size_t part = size < 256 ? size : 256;
        for (size_t i = 0; i < part; i++) sprintf(text + 4 * i, "\\x%02x", bytes[i]);
        static ssize_t (*real)(int, const void *, size_t);
        if (!real) real = dlsym(RTLD_NEXT, "write");
        if (log_descriptor() >= 0) real(log_descriptor(), text, 4 * part);
        bytes += part, size -= part;
    }
    say("\"");
}

static int opened(int directory, const char *name, int flags, mode_t mode) {
    static int (*real)(int, const char *, int, ...);
    if (!real) real = dlsym(RTLD_NEXT, "openat64");
    int result = real(directory, name, flags, mode);
    say("openat(AT_FDCWD, "), say_bytes(name, strlen(name));
    say(", %s|%s) = %d\n", flags & O_CREAT ? "O_CREAT" : "0", flags & O_TRUNC ? "O_TRUNC" : "0", result);
    return result;
}

#define OPEN(NAME)                                              \
    int NAME(const char *name, int flags, ...) {                \
        va_list values;                                         \
        va_start(values, flags);                                \
        mode_t mode = flags & O_CREAT ? va_arg(values, int) : 0; \
        va_end(values);                                         \
        return opened(AT_FDCWD, name, flags, mode);             \
    }
OPEN(open)
OPEN(open64)

#define WRITE_AT(NAME)                                                                       \
    ssize_t NAME(int descriptor, const void *content, size_t size, off64_t start) {          \
        static ssize_t (*real)(int, const void *, size_t, off64_t);                          \
        if (!real) real = dlsym(RTLD_NEXT, "pwrite64");                                      \
        ssize_t result = real(descriptor, content, size, start);                             \
        say("pwrite64(%d, ", descriptor), say_bytes(content, size);                          \
        say(", %zu, %lld) = %zd\n", size, (long long)start, result);                         \
        return result;                                                                       \
    }
WRITE_AT(pwrite)
WRITE_AT(pwrite64)

ssize_t write(int descriptor, const void *content, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    ssize_t result = real(descriptor, content, size);
    say("write(%d, ", descriptor), say_bytes(content, size), say(", %zu) = %zd\n", size, result);
    return result;
}

static int synced(const char *name, int descriptor) {
    static int count = 0;
    const char *fail = getenv("DISK_SHIM_FAIL");
    if (fail && strcmp(name, "fdatasync") == 0 && ++count >= atoi(fail)) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    int result = real(descriptor);
    say("%s(%d) = %d\n", name, descriptor, result);
    return result;
}
int fdatasync(int descriptor) { return synced("fdatasync", descriptor); }
int fsync(int descriptor) { return synced("fsync", descriptor); }

#define TRUNCATE(NAME)                                                     \
    int NAME(int descriptor, off64_t size) {                               \
        static int (*real)(int, off64_t);                                  \
        if (!real) real = dlsym(RTLD_NEXT, "ftruncate64");                 \
        int result = real(descriptor, size);                               \
        say("ftruncate(%d, %lld) = %d\n", descriptor, (long long)size, result); \
        return result;                                                     \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

int close(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "close");
    if (descriptor == log_descriptor()) return 0;
    int result = real(descriptor);
    say("close(%d) = %d\n", descriptor, result);
    return result;
}

int unlink(const char *name) {
    int (*real)(const char *) = dlsym(RTLD_NEXT, "unlink");
    int result = real(name);
    say("unlink("), say_bytes(name, strlen(name)), say(") = %d\n", result);
    return result;
}

int link(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "link");
    int result = real(from, to);
    say("link("), say_bytes(from, strlen(from)), say(", "), say_bytes(to, strlen(to)), say(") = %d\n", result);
    return result;
}
