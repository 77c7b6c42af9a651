/* Loads policy.bpf.o, fills its maps from a list of rules, attaches it to two interfaces and waits to be ended.
 *
 *   attach tc|xdp OBJECT RULES INTERFACE MAC-BEHIND-IT INTERFACE MAC-BEHIND-IT
 *
 * Prints "ready" when it is attached. The programs go with the network namespace at the latest. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rules.h"

/* As in policy.bpf.c. */
struct prefix {
    uint32_t bits, address;
};
struct policy {
    uint32_t bits, identity, endpoint;
    uint8_t protocol, unused;
    uint16_t port;
};
struct way {
    uint32_t interface;
    uint8_t source[6], destination[6];
};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int map(struct bpf_object *object, const char *name)
{
    int fd = bpf_object__find_map_fd_by_name(object, name);
    if (fd < 0)
        fail(name);
    return fd;
}

static void set(int fd, const void *key, const void *value)
{
    if (bpf_map_update_elem(fd, key, value, BPF_ANY))
        fail("cannot fill a map");
}

/* Each different source is an identity, as each label set is one in Cilium. A range of ports becomes prefixes. */
static void fill(struct bpf_object *object, const struct rules *rules)
{
    int identities = map(object, "identities"), policies = map(object, "policies");
    uint8_t allow = 1;

    for (uint32_t i = 0; i < rules->count; i++) {
        const struct rule *rule = &rules->list[i];
        struct prefix from = {rule->source_bits, htonl(rule->source)};
        uint32_t identity = i + 1;
        set(identities, &from, &identity);
        for (uint32_t low = rule->low; low <= rule->high;) {
            uint32_t size = 1;
            while (!(low & size) && low + 2 * size - 1 <= rule->high)
                size *= 2;
            struct policy policy = {80 + 16 - (uint32_t)__builtin_ctz(size), identity, htonl(rule->destination),
                                    (uint8_t)rule->protocol, 0, htons((uint16_t)low)};
            set(policies, &policy, &allow);
            low += size;
        }
    }
}

int main(int argc, char **argv)
{
    struct rules rules;
    int wanted;
    sigset_t signals;

    if (argc != 8 || rules_read(argv[3], &rules))
        return fprintf(stderr, "usage: attach tc|xdp OBJECT RULES INTERFACE MAC INTERFACE MAC\n"), 2;
    int xdp = !strcmp(argv[1], "xdp");
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);

    struct bpf_object *object = bpf_object__open_file(argv[2], NULL);
    if (!object)
        fail("cannot open the object");
    struct bpf_map *constants = bpf_object__find_map_by_name(object, ".rodata");
    uint32_t enforced = rules.count != 0;
    if (!constants || bpf_map__set_initial_value(constants, &enforced, sizeof(enforced)))
        fail("cannot set the constant");
    if (bpf_object__load(object))
        fail("cannot load the object");
    fill(object, &rules);

    uint32_t interfaces[2];
    uint8_t ours[2][6];
    int socket_fd = socket(AF_INET, SOCK_DGRAM, 0);
    for (int i = 0; i < 2; i++) {
        struct ifreq request = {0};
        strncpy(request.ifr_name, argv[4 + 2 * i], IFNAMSIZ - 1);
        interfaces[i] = if_nametoindex(request.ifr_name);
        if (!interfaces[i] || ioctl(socket_fd, SIOCGIFHWADDR, &request))
            fail(argv[4 + 2 * i]);
        memcpy(ours[i], request.ifr_hwaddr.sa_data, 6);
    }
    for (int i = 0; i < 2; i++) {
        struct way way = {.interface = interfaces[!i]};
        struct ether_addr *behind = ether_aton(argv[5 + 2 * !i]);
        if (!behind)
            fail("MAC");
        memcpy(way.source, ours[!i], 6);
        memcpy(way.destination, behind, 6);
        set(map(object, "ways"), &interfaces[i], &way);
    }
    struct bpf_program *program = bpf_object__find_program_by_name(object, xdp ? "judge_xdp" : "judge_tc");
    for (int i = 0; i < 2; i++) {
        if (xdp) {
            if (bpf_xdp_attach((int)interfaces[i], bpf_program__fd(program), XDP_FLAGS_DRV_MODE, NULL))
                fail("cannot attach to XDP");
            continue;
        }
        LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)interfaces[i], .attach_point = BPF_TC_INGRESS);
        LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = bpf_program__fd(program));
        if (bpf_tc_hook_create(&hook) || bpf_tc_attach(&hook, &options))
            fail("cannot attach to tc");
    }
    puts("ready");
    fflush(stdout);
    sigwait(&signals, &wanted);
    for (int i = 0; i < 2; i++) {
        LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)interfaces[i],
                    .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
        if (xdp)
            bpf_xdp_detach((int)interfaces[i], XDP_FLAGS_DRV_MODE, NULL);
        else
            bpf_tc_hook_destroy(&hook);
    }
    return 0;
}
