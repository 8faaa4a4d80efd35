/* Make the n-th system call that changes a file below a folder fail, as a full or broken disk does.
 *
 * FAULT_FOLDER: only files below it count. FAULT_AT: which call fails, from 1, and with FAULT_STAYS
 * all later ones. FAULT_ERRNO: with what.
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
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int calls;

static int below(const char *path) {
  const char *folder = getenv("FAULT_FOLDER");
  char full[PATH_MAX];
  if (!folder || !path) return 0;
  if (path[0] != '/') {
    if (!getcwd(full, sizeof full)) return 0;
    strncat(full, "/", sizeof full - strlen(full) - 1);
    strncat(full, path, sizeof full - strlen(full) - 1);
    path = full;
  }
  return strncmp(path, folder, strlen(folder)) == 0;
}

static int below_fd(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return below(path);
}

static int fails(void) {
  const char *at = getenv("FAULT_AT"), *number = getenv("FAULT_ERRNO");
  int call = __sync_add_and_fetch(&calls, 1);
  if (!at || !number) return 0;
  if (call == atoi(at) || (getenv("FAULT_STAYS") && call > atoi(at))) {
    errno = atoi(number);
    return 1;
  }
  return 0;
}

/* How many calls there were since the last time that this was asked. */
int fault_calls(void) { return __sync_fetch_and_and(&calls, 0); }

#define REAL(name) \
  static typeof(name) *real; \
  if (!real) real = (typeof(name) *)dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
  REAL(write);
  if (below_fd(fd) && fails()) return -1;
  return real(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  REAL(pwrite);
  if (below_fd(fd) && fails()) return -1;
  return real(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) {
  REAL(pwrite64);
  if (below_fd(fd) && fails()) return -1;
  return real(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  REAL(writev);
  if (below_fd(fd) && fails()) return -1;
  return real(fd, parts, count);
}

int fsync(int fd) {
  REAL(fsync);
  if (below_fd(fd) && fails()) return -1;
  return real(fd);
}

int ftruncate(int fd, off_t size) {
  REAL(ftruncate);
  if (below_fd(fd) && fails()) return -1;
  return real(fd, size);
}

int ftruncate64(int fd, off_t size) {
  REAL(ftruncate64);
  if (below_fd(fd) && fails()) return -1;
  return real(fd, size);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  if (below(to) && fails()) return -1;
  return real(from, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
  REAL(renameat2);
  if (below(to) && fails()) return -1;
  return real(a, from, b, to, flags);
}

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  if (below(path) && fails()) return -1;
  return real(path, mode);
}

static int opens_for_writing(const char *path, int flags) {
  int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
  return writes && below(path) && fails();
}

int open(const char *path, int flags, ...) {
  REAL(open);
  va_list rest;
  va_start(rest, flags);
  mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  if (opens_for_writing(path, flags)) return -1;
  return real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  REAL(open64);
  va_list rest;
  va_start(rest, flags);
  mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  if (opens_for_writing(path, flags)) return -1;
  return real(path, flags, mode);
}
