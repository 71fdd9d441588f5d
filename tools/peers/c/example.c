/* Subscribes to orders.** and sends an order every second. Run it twice, or beside a program in another
 * language:
 *
 *     cc -o example example.c zev.c -lzmq -lpthread && ./example
 *     zbus sub 'orders.**'
 *     zbus send orders order.created /orders/7 '{"total": 12.5}'
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include "zev.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

static void interrupt(int number) {
    (void)number;
    interrupted = 1;
}

static void *print_events(void *argument) {
    zev_sub *sub = (zev_sub *)argument;
    zev_event evt = ZEV_EVENT_INIT;
    while (zev_receive(sub, &evt, -1, NULL) == 1) { /* until the subscription is closed */
        if (evt.lost > 0)
            printf("missed %llu events\n", (unsigned long long)evt.lost);
        printf("%s %s %s %s\n", evt.system, evt.kind, evt.path, evt.data);
        fflush(stdout);
    }
    zev_event_clear(&evt);
    return NULL;
}

int main(void) {
    const struct timespec second = {1, 0};
    struct sigaction action;
    zev_error err;
    pthread_t thread;
    char path[64];

    memset(&action, 0, sizeof action);
    action.sa_handler = interrupt;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);

    zev_bus *bus = zev_open(NULL, &err);
    zev_sub *sub = bus != NULL ? zev_subscribe(bus, "orders.**", NULL, NULL, &err) : NULL;
    if (sub == NULL || pthread_create(&thread, NULL, print_events, sub) != 0) {
        fprintf(stderr, "%s\n", bus == NULL || sub == NULL ? err.message : "cannot start a thread");
        zev_close(bus);
        return 1;
    }
    for (int n = 1; !interrupted; n++) {
        snprintf(path, sizeof path, "/orders/%ld-%d", (long)getpid(), n);
        if (zev_send(bus, "orders", "order.created", path, "{\"total\":9.5}", &err) != 0)
            fprintf(stderr, "%s\n", err.message); /* ZEV_TIMEOUT: a `block` subscriber is full, try again */
        nanosleep(&second, NULL);
    }
    zev_close(bus); /* ends the subscription too, so the thread returns */
    pthread_join(thread, NULL);
    zev_sub_free(sub);
    return 0;
}
