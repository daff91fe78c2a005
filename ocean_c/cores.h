// Threads that work side by side, each on a core of its own. Where another process kept a core busy, the system (Linux 6.18)
// woke a thread on the core of the one that woke it, and left it there: two threads took turns on one core of two, and the
// other process had the other. So a thread at work asks now and then whether there is another of this process on its core,
// and if so, also when it asks again, goes to one that none is on. The system may still move it as it likes.
#ifndef CORES_H
#define CORES_H

#ifdef __linux__
#include <sched.h>

static int taken[CPU_SETSIZE];     // cores on which a thread has found itself
static __thread int own_core = -1; // the one that this thread has taken
static __thread int doubted = -1;  // one that another had, who may have been moved and not have asked yet

// For a thread that ends its work.
static void leave_core(void) {
    if (own_core >= 0) __atomic_store_n(taken + own_core, 0, __ATOMIC_RELAXED);
    own_core = -1;
}

// Takes this thread's core, or another one if that is taken the second time in a row; if all are, none.
static void keep_apart(void) {
    const int here = sched_getcpu();
    if (here == own_core || here < 0 || here >= CPU_SETSIZE) return;
    leave_core();
    if (!__atomic_exchange_n(taken + here, 1, __ATOMIC_RELAXED)) {
        own_core = here, doubted = -1;
        return;
    }
    if (doubted != here) {
        doubted = here;
        return;
    }
    cpu_set_t allowed, rest;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    rest = allowed;
    for (int core = 0; core < CPU_SETSIZE; core++)
        if (__atomic_load_n(taken + core, __ATOMIC_RELAXED)) CPU_CLR(core, &rest);
    if (!CPU_COUNT(&rest) || sched_setaffinity(0, sizeof rest, &rest)) return;
    sched_setaffinity(0, sizeof allowed, &allowed);
    doubted = -1;
    keep_apart();
}
#else
static void leave_core(void) {}
static void keep_apart(void) {}
#endif

#endif
