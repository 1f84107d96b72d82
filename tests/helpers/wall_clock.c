/* Moves the wall clock of a process by AHEAD_S seconds, and nothing else: timed waits and the monotonic clock stay as they are.
 *
 * libfaketime moves the time that waits take as well, so that Python's locks and conditions wait too long or not at all.
 * Waits until an instant of the wall clock are moved back, since the kernel does not know of any of this.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define MOST_UPTIME_S 1000000000L /* a later instant than this is one of the wall clock, an earlier one of the monotonic clock */

static long ahead_s(void) {
    static long ahead = -1;
    if (ahead < 0) {
        const char *text = getenv("AHEAD_S");
        ahead = text ? atol(text) : 0;
    }
    return ahead;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static __typeof__(&clock_gettime) real;
    if (!real) real = REAL(clock_gettime);
    int status = real(clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead_s();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec exact;
    int status = clock_gettime(CLOCK_REALTIME, &exact);
    if (status == 0) {
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return status;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}

static struct timespec kernels(const struct timespec *until) {
    struct timespec moved = *until;
    if (moved.tv_sec > MOST_UPTIME_S) moved.tv_sec -= ahead_s();
    return moved;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    static __typeof__(&pthread_cond_timedwait) real;
    /* The newest version of the symbol: RTLD_NEXT alone may find that of glibc 2.0, whose conditions are of another shape. */
    if (!real) real = (__typeof__(real))dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real) real = REAL(pthread_cond_timedwait);
    struct timespec moved = kernels(until);
    return real(cond, mutex, &moved);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    static __typeof__(&pthread_mutex_timedlock) real;
    if (!real) real = REAL(pthread_mutex_timedlock);
    struct timespec moved = kernels(until);
    return real(mutex, &moved);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static __typeof__(&sem_timedwait) real;
    if (!real) real = REAL(sem_timedwait);
    struct timespec moved = kernels(until);
    return real(semaphore, &moved);
}
