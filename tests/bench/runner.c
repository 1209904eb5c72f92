/*
 * Starts a CGI program so many times, one after another, and prints on one line: the median time from fork to end in
 * nanoseconds, the mean of its user and system time in nanoseconds, its peak memory in KiB and its mean number of page
 * faults.
 *
 *     runner COUNT BODY-FILE PROGRAM [KEY]
 *
 * The environment is the program's. KEY: every request carries an Idempotency-Key of its own that begins with KEY.
 *
 * In C and static, so that its own memory, which a child shows as its own until it is another program, is below any
 * measured one; web servers fork likewise.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static long long nanoseconds(struct timeval t) {
    return (t.tv_sec * 1000000LL + t.tv_usec) * 1000;
}

static int compare(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

int main(int count, char **words) {
    int runs = count > 3 ? atoi(words[1]) : 0;
    if (runs < 1)
        return 2;
    long long *walls = calloc(runs, sizeof *walls), cpu = 0, faults = 0;
    long memory = 0;
    for (int i = 0; i < runs; i++) {
        if (count > 4) {
            char key[256];
            snprintf(key, sizeof key, "%s-%d", words[4], i);
            setenv("HTTP_IDEMPOTENCY_KEY", key, 1);
        }
        int body = open(words[2], O_RDONLY | O_CLOEXEC), nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
        if (body < 0 || nowhere < 0)
            return 1;
        long long begun = now();
        pid_t child = fork();
        if (child == 0) {
            dup2(body, 0);
            dup2(nowhere, 1);
            dup2(nowhere, 2);
            execl(words[3], words[3], (char *)NULL);
            _exit(127);
        }
        int status;
        struct rusage usage;
        if (child < 0 || wait4(child, &status, 0, &usage) < 0 || status != 0) {
            fprintf(stderr, "%s ended with %#x\n", words[3], status);
            return 1;
        }
        walls[i] = now() - begun;
        cpu += nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime);
        faults += usage.ru_minflt;
        if (usage.ru_maxrss > memory)
            memory = usage.ru_maxrss;
        close(body);
        close(nowhere);
    }
    qsort(walls, runs, sizeof *walls, compare);
    printf("%lld %lld %ld %lld\n", walls[runs / 2], cpu / runs, memory, faults / runs);
    return 0;
}
