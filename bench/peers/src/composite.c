/* DPDK's parts put together to a gateway without devices: what a packet costs one core.
 *
 *   composite EAL-OPTIONS -- RULES [SECONDS]
 *
 * Prints a line "NAME NANOSECONDS" for each piece of work, the mean of so many seconds (default 0.3). The packets are those of
 * Podgate's bench of turns: 60-byte UDP between two pods, a connection's number is its pair of ports, connections in random order.
 * Packets are made before each batch of 64 and not timed, as there. */
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_lcore.h>

#include "fastpath.h"

#define BATCH 64
#define BULK 32
#define FRAMES 2048
#define QUESTIONS 16384

static uint8_t (*frames)[2048];
static struct key *questions;
static uint64_t sink, span;
static uint32_t drawn = 1;

static uint32_t draw(void)
{
    drawn ^= drawn << 13;
    drawn ^= drawn >> 17;
    return drawn ^= drawn << 5;
}

static void fail(const char *what)
{
    fprintf(stderr, "composite: %s\n", what);
    exit(1);
}

static void report(const char *name, uint64_t cycles, uint64_t packets)
{
    printf("%s %.2f\n", name, (double)cycles * 1e9 / (double)rte_get_tsc_hz() / (double)packets);
    fflush(stdout);
}

static void make_frame(uint8_t *frame, uint32_t flow)
{
    static const uint8_t headers[34] = {2, 0xaa, 0, 0, 0, 0, 2, 0xbb, 0,    0,    0,  0,   8, 0, 0x45, 0, 0,
                                        46, 0,    0, 0x40, 0, 64, 17, 0x25, 0xd5, 10, 244, 0, 1, 10,   244, 0, 2};
    uint32_t ports = rte_cpu_to_be_32(flow);

    memcpy(frame, headers, sizeof(headers));
    memcpy(frame + 34, &ports, 4);
    memset(frame + 38, 0, 22);
}

/* The next batch of the ring of frames; `flows` 0: connections that never were. */
static uint8_t **make_batch(uint32_t flows)
{
    static uint8_t *batch[BATCH];
    static uint32_t at, fresh;

    for (int i = 0; i < BATCH; i++) {
        batch[i] = frames[at++ % FRAMES];
        make_frame(batch[i], flows ? draw() % flows : fresh++ & 0x7fffffff);
    }
    return batch;
}

/* One turn: what arrives is parsed and rewritten, connections are found or entered, what may pass is put in order to send. */
static uint64_t turn(struct gateway *gateway, uint8_t **batch)
{
    struct key keys[BATCH];
    uint8_t *out[BATCH];
    uint64_t pass, begin = rte_rdtsc();
    uint32_t count = 0, sending = 0;

    for (int i = 0; i < BATCH; i++)
        rte_prefetch0(batch[i]);
    for (int i = 0; i < BATCH; i++)
        count += (uint32_t)parse(batch[i], 60, &keys[count], gateway != NULL);
    if (gateway) {
        pass = count ? gateway_judge(gateway, keys, count) : 0;
        for (uint32_t i = 0; i < count; i++)
            if (pass >> i & 1)
                out[sending++] = batch[i];
        asm volatile("" : : "r"(out) : "memory");
    } else {
        sending = count;
        asm volatile("" : : "r"(keys) : "memory");
    }
    begin = rte_rdtsc() - begin;
    if (sending != BATCH)
        fail("a packet did not pass");
    sink += sending;
    return begin;
}

static void turns(const char *name, struct gateway *gateway, uint32_t flows)
{
    uint64_t cycles = 0, packets = 0, end = rte_rdtsc() + 4 * span;

    for (int i = 0; i < 2000; i++)
        turn(gateway, make_batch(flows));
    while (cycles < span && rte_rdtsc() < end) {
        cycles += turn(gateway, make_batch(flows));
        packets += BATCH;
    }
    report(name, cycles, packets);
}

/* rte_hash_lookup_bulk by itself, and a look-up at a time. */
static void lookups(const char *name, struct gateway *gateway, uint32_t flows, int bulk)
{
    uint64_t cycles = 0, packets = 0, end = rte_rdtsc() + 4 * span;
    struct key keys[BULK], ordered[BULK];
    const void *wanted[BULK];
    int32_t found[BULK];

    for (int i = 0; i < BULK; i++)
        wanted[i] = &ordered[i];
    while (cycles < span && rte_rdtsc() < end) {
        for (int i = 0; i < BULK; i++) {
            uint8_t frame[64];
            make_frame(frame, draw() % flows);
            parse(frame, 60, &keys[i], 0);
            in_order(&keys[i], &ordered[i]);
        }
        uint64_t begin = rte_rdtsc();
        if (bulk)
            rte_hash_lookup_bulk(gateway->table, wanted, BULK, found);
        else
            for (int i = 0; i < BULK; i++)
                found[i] = rte_hash_lookup(gateway->table, wanted[i]);
        cycles += rte_rdtsc() - begin;
        packets += BULK;
        for (int i = 0; i < BULK; i++)
            if (found[i] < 0)
                fail("a connection was not found");
    }
    report(name, cycles, packets);
}

static void established(uint32_t flows)
{
    struct gateway gateway;
    char name[64];

    if (gateway_init(&gateway, flows, NULL))
        fail("no memory for connections");
    for (uint32_t flow = 0; flow < flows; flow++) {
        uint8_t frame[64];
        struct key key, ordered;
        make_frame(frame, flow);
        parse(frame, 60, &key, 0);
        in_order(&key, &ordered);
        gateway_enter(&gateway, &ordered);
    }
    snprintf(name, sizeof(name), "established-%u", flows);
    turns(name, &gateway, flows);
    snprintf(name, sizeof(name), "lookup-bulk-%u", flows);
    lookups(name, &gateway, flows, 1);
    snprintf(name, sizeof(name), "lookup-single-%u", flows);
    lookups(name, &gateway, flows, 0);
    rte_hash_free(gateway.table);
    free(gateway.oldest);
}

static void classify(const char *name, struct rte_acl_ctx *acl, enum rte_acl_classify_alg algorithm)
{
    uint64_t cycles = 0, packets = 0, end = rte_rdtsc() + 4 * span;
    const uint8_t *asked[BULK];
    uint32_t verdicts[BULK], at = 0;

    if (rte_acl_set_ctx_classify(acl, algorithm)) {
        fprintf(stderr, "composite: this processor has no %s\n", name);
        return;
    }
    while (cycles < span && rte_rdtsc() < end) {
        for (int i = 0; i < BULK; i++)
            asked[i] = (const uint8_t *)&questions[at++ % QUESTIONS];
        uint64_t begin = rte_rdtsc();
        rte_acl_classify(acl, asked, verdicts, BULK, 1);
        cycles += rte_rdtsc() - begin;
        packets += BULK;
        sink += verdicts[0];
    }
    report(name, cycles, packets);
}

int main(int argc, char **argv)
{
    int taken = rte_eal_init(argc, argv);
    struct gateway gateway;
    struct rules rules;

    if (taken < 0 || argc - taken < 2 || rules_read(argv[taken + 1], &rules) || !rules.count)
        fail("usage: composite EAL-OPTIONS -- RULES [SECONDS]");
    use_huge_pages(2048ul << 20);
    span = (uint64_t)((argc - taken > 2 ? atof(argv[taken + 2]) : 0.3) * (double)rte_get_tsc_hz());
    frames = aligned_alloc(4096, FRAMES * sizeof(*frames));
    questions = aligned_alloc(64, QUESTIONS * sizeof(*questions));
    if (!frames || !questions)
        fail("no memory");
    memset(frames, 0, FRAMES * sizeof(*frames));

    turns("parse", NULL, 1000);
    for (uint32_t flows = 1000; flows <= 4000000; flows = flows == 1000 ? 100000 : flows == 100000 ? 1000000 : flows * 4)
        established(flows);

    uint64_t begin = rte_rdtsc();
    struct rte_acl_ctx *acl = acl_build(&rules);
    if (!acl)
        fail("cannot build the rules");
    report("acl-build-ms", rte_rdtsc() - begin, 1000000);
    /* Half of the questions are what a rule allows, the others a neighbour of it. */
    memset(questions, 0, QUESTIONS * sizeof(*questions));
    for (uint32_t i = 0; i < QUESTIONS; i++) {
        const struct rule *rule = &rules.list[draw() % rules.count];
        questions[i].protocol = (uint8_t)rule->protocol;
        questions[i].source = rte_cpu_to_be_32(rule->source + (draw() & 1));
        questions[i].destination = rte_cpu_to_be_32(rule->destination);
        questions[i].source_port = (uint16_t)draw();
        questions[i].destination_port = rte_cpu_to_be_16((uint16_t)rule->low);
    }
    classify("acl-scalar", acl, RTE_ACL_CLASSIFY_SCALAR);
    classify("acl-avx2", acl, RTE_ACL_CLASSIFY_AVX2);
    classify("acl-avx512", acl, RTE_ACL_CLASSIFY_AVX512X32);
    rte_acl_set_ctx_classify(acl, RTE_ACL_CLASSIFY_DEFAULT);
    if (gateway_init(&gateway, 100000, acl))
        fail("no memory for connections");
    turns("new", &gateway, 0);
    return sink == 0;
}
