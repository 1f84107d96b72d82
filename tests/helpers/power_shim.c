/* Notes what a process writes to a database and its log, and what it syncs: the record that power_record.py reads.
 *
 * POWER_DATABASE is the path of the database, POWER_RECORD that of the record.
 * A call is noted when it has ended. Of a sync the beginning is noted, too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

struct __attribute__((packed)) entry {
    char kind, file;
    uint64_t number;
    uint32_t length;
};

static int record(void) {
    static int handle = -1;
    if (handle < 0) handle = open(getenv("POWER_RECORD"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    return handle;
}

/* 'd' for the database, 'l' for its log, 0 for all else. */
static char file_of(int handle) {
    const char *database = getenv("POWER_DATABASE");
    char link[64], path[PATH_MAX];
    if (!database || !getenv("POWER_RECORD")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    size_t name = strlen(database);
    if (strncmp(path, database, name)) return 0;
    return !path[name] ? 'd' : !strcmp(path + name, "-wal") ? 'l' : 0;
}

/* One call, so that the entry is whole whatever others append. A part of it would be unreadable. */
static void note(char kind, char file, uint64_t number, const void *data, size_t length) {
    int before = errno;
    struct entry entry = {kind, file, number, (uint32_t)length};
    struct iovec parts[] = {{&entry, sizeof entry}, {(void *)data, length}};
    if (writev(record(), parts, 2) != (ssize_t)(sizeof entry + length)) abort();
    errno = before;
}

static ssize_t written(int handle, const void *data, ssize_t count, off64_t at) {
    char file = count > 0 ? file_of(handle) : 0;
    if (file) note('W', file, (uint64_t)at, data, (size_t)count);
    return count;
}

ssize_t pwrite(int handle, const void *data, size_t count, off_t at) {
    return written(handle, data, REAL(pwrite)(handle, data, count, at), at);
}

ssize_t pwrite64(int handle, const void *data, size_t count, off64_t at) {
    return written(handle, data, REAL(pwrite64)(handle, data, count, at), at);
}

ssize_t write(int handle, const void *data, size_t count) {
    ssize_t done = REAL(write)(handle, data, count);
    char file = done > 0 ? file_of(handle) : 0;
    return file ? written(handle, data, done, lseek64(handle, 0, SEEK_CUR) - done) : done;
}

static int truncated(int handle, off64_t size, int status) {
    char file = status == 0 ? file_of(handle) : 0;
    if (file) note('T', file, (uint64_t)size, NULL, 0);
    return status;
}

int ftruncate(int handle, off_t size) { return truncated(handle, size, REAL(ftruncate)(handle, size)); }
int ftruncate64(int handle, off64_t size) { return truncated(handle, size, REAL(ftruncate64)(handle, size)); }

static int synced(int handle, int (*sync)(int)) {
    char file = file_of(handle);
    uint64_t thread = (uint64_t)syscall(SYS_gettid);
    if (file) note('B', file, thread, NULL, 0);
    int status = sync(handle);
    if (file) note(status ? 'F' : 'S', file, thread, NULL, 0);
    return status;
}

int fsync(int handle) { return synced(handle, REAL(fsync)); }
int fdatasync(int handle) { return synced(handle, REAL(fdatasync)); }
