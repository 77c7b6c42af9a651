/* A stateful gateway of DPDK's own parts between two ports, on one core.
 *
 *   gateway EAL-OPTIONS -- RULES MAC-BEHIND-PORT-0 MAC-BEHIND-PORT-1
 *
 * Prints "ready" when it forwards; ends at SIGTERM. */
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <signal.h>
#include <unistd.h>

#include "fastpath.h"

#define BURST 64
#define CONNECTIONS 131072

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
}

static void fail(const char *what)
{
    fprintf(stderr, "gateway: %s\n", what);
    exit(1);
}

static void open_port(uint16_t port, struct rte_mempool *pool)
{
    struct rte_eth_conf conf = {0};
    uint16_t descriptors = 2048;

    if (rte_eth_dev_configure(port, 1, 1, &conf) || rte_eth_dev_adjust_nb_rx_tx_desc(port, &descriptors, &descriptors) ||
        rte_eth_rx_queue_setup(port, 0, descriptors, SOCKET_ID_ANY, NULL, pool) ||
        rte_eth_tx_queue_setup(port, 0, descriptors, SOCKET_ID_ANY, NULL) || rte_eth_dev_start(port))
        fail("cannot open a port");
    rte_eth_promiscuous_enable(port);
}

int main(int argc, char **argv)
{
    int taken = rte_eal_init(argc, argv);
    struct rte_ether_addr behind[2], ours[2];
    struct gateway gateway;
    struct rules rules;

    if (taken < 0 || argc - taken != 4)
        fail("usage: gateway EAL-OPTIONS -- RULES MAC MAC");
    argv += taken;
    use_huge_pages(256 << 20);
    if (rules_read(argv[1], &rules) || rte_ether_unformat_addr(argv[2], &behind[0]) ||
        rte_ether_unformat_addr(argv[3], &behind[1]))
        fail("cannot read the rules or an address");
    struct rte_acl_ctx *acl = rules.count ? acl_build(&rules) : NULL;
    if ((rules.count && !acl) || gateway_init(&gateway, CONNECTIONS, acl))
        fail("no memory for rules or connections");
    struct rte_mempool *pool = rte_pktmbuf_pool_create("packets", 16383, 256, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    if (!pool || rte_eth_dev_count_avail() != 2)
        fail("expected memory for packets and two ports");
    for (uint16_t port = 0; port < 2; port++) {
        open_port(port, pool);
        rte_eth_macaddr_get(port, &ours[port]);
    }
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    puts("ready");
    fflush(stdout);

    while (!stop) {
        for (uint16_t port = 0; port < 2; port++) {
            struct rte_mbuf *received[BURST], *kept[BURST], *out[BURST];
            struct key keys[BURST];
            uint16_t count = rte_eth_rx_burst(port, 0, received, BURST), some = 0, sending = 0;

            if (!count)
                continue;
            for (uint16_t i = 0; i < count; i++)
                rte_prefetch0(rte_pktmbuf_mtod(received[i], void *));
            for (uint16_t i = 0; i < count; i++) {
                if (parse(rte_pktmbuf_mtod(received[i], uint8_t *), received[i]->data_len, &keys[some], 1))
                    kept[some++] = received[i];
                else
                    rte_pktmbuf_free(received[i]);
            }
            uint64_t pass = some ? gateway_judge(&gateway, keys, some) : 0;
            for (uint16_t i = 0; i < some; i++) {
                if (!(pass >> i & 1)) {
                    rte_pktmbuf_free(kept[i]);
                    continue;
                }
                struct rte_ether_hdr *ether = rte_pktmbuf_mtod(kept[i], struct rte_ether_hdr *);
                ether->dst_addr = behind[port ^ 1];
                ether->src_addr = ours[port ^ 1];
                out[sending++] = kept[i];
            }
            uint16_t sent = rte_eth_tx_burst(port ^ 1, 0, out, sending);
            while (sent < sending)
                rte_pktmbuf_free(out[sent++]);
        }
    }
    for (uint16_t port = 0; port < 2; port++)
        rte_eth_dev_stop(port);
    return 0;
}
