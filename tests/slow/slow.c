/* A slow machine for programs on io_uring: loaded with LD_PRELOAD, it makes a thread rest each time it comes back from
 * io_uring_enter, as one does whose CPU the kernel, or an emulator, has given to another thread.
 *
 *   SLOW_MICROSECONDS   how long
 *   SLOW_THREAD         only threads whose name begins like this; default: all
 *   SLOW_WHEN           only while there is a file of this name; default: always
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void rest(void)
{
    const char *microseconds = getenv("SLOW_MICROSECONDS"), *thread = getenv("SLOW_THREAD");
    const char *when = getenv("SLOW_WHEN");
    char name[16] = "";
    long long rest = microseconds ? atoll(microseconds) : 0;
    struct timespec time = {rest / 1000000, rest % 1000000 * 1000};

    if (thread && (prctl(PR_GET_NAME, name) || strncmp(name, thread, strlen(thread))))
        return;
    if (when && access(when, F_OK))
        return;
    while (nanosleep(&time, &time) && errno == EINTR)
        ;
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a, b, c, d, e, f, result;
    va_list list;

    va_start(list, number);
    a = va_arg(list, long);
    b = va_arg(list, long);
    c = va_arg(list, long);
    d = va_arg(list, long);
    e = va_arg(list, long);
    f = va_arg(list, long);
    va_end(list);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    result = real(number, a, b, c, d, e, f);
    if (number == SYS_io_uring_enter) {
        int kept = errno;
        rest();
        errno = kept;
    }
    return result;
}
