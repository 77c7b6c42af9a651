/* What the DPDK gateway and the composite do with a packet: parse it, decrement TTL with the checksum, find its connection in an
 * rte_hash, and ask rte_acl about new ones. As little as can be called a stateful gateway: no aging, no TCP state, no counters by
 * reason, no fragments, IPv4 only. When the table is full, the oldest connection makes room. */
#pragma once
#include <rte_acl.h>
#include <rte_byteorder.h>
#include <rte_ether.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_ip.h>
#include <rte_lcore.h>
#include <rte_malloc.h>
#include <string.h>
#include <sys/mman.h>

#include "rules.h"

/* The same 16 bytes are the key of the connection table (ends in order, so that both directions have one entry) and, as they came,
 * what rte_acl reads. All in network byte order. */
struct key {
    uint8_t protocol, unused[3];
    uint32_t source, destination;
    uint16_t source_port, destination_port;
} __attribute__((aligned(16)));

enum { FIELD_PROTOCOL, FIELD_SOURCE, FIELD_DESTINATION, FIELD_SOURCE_PORT, FIELD_DESTINATION_PORT, FIELDS };
RTE_ACL_RULE_DEF(gateway_rule, FIELDS);

struct gateway {
    struct rte_hash *table;
    struct rte_acl_ctx *acl; /* NULL: no policy */
    struct key *oldest;      /* in the order of entry */
    uint32_t room, next;
    uint64_t entered;
};

/* Where tables are made: EAL without reserved huge pages has small ones, so they get memory of their own, of transparent huge
 * pages if the system has them. */
static int table_memory = SOCKET_ID_ANY;

static inline void use_huge_pages(size_t bytes)
{
    const size_t page = 2 << 20;
    uint8_t *memory = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED)
        return;
    memory = (uint8_t *)(((uintptr_t)memory + page - 1) & ~(page - 1));
    madvise(memory, bytes, MADV_HUGEPAGE);
    if (!rte_malloc_heap_create("tables") && !rte_malloc_heap_memory_add("tables", memory, bytes, NULL, 0, page))
        table_memory = rte_malloc_heap_get_socket("tables");
}

/* Reads the headers; decrements TTL. 0 if the packet cannot be forwarded. */
static inline int parse(uint8_t *frame, uint32_t length, struct key *key, int rewrite)
{
    struct rte_ether_hdr *ether = (struct rte_ether_hdr *)frame;
    struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)(ether + 1);

    if (length < sizeof(*ether) + sizeof(*ip) + 4 || ether->ether_type != RTE_BE16(RTE_ETHER_TYPE_IPV4))
        return 0;
    uint32_t header = (ip->version_ihl & 15u) * 4;
    uint32_t total = rte_be_to_cpu_16(ip->total_length);
    if (ip->version_ihl >> 4 != 4 || header < 20 || total < header + 4 || sizeof(*ether) + total > length ||
        ip->time_to_live < 2 || (ip->fragment_offset & RTE_BE16(0x3fff)) ||
        (ip->next_proto_id != IPPROTO_UDP && ip->next_proto_id != IPPROTO_TCP))
        return 0;
    uint16_t *ports = (uint16_t *)((uint8_t *)ip + header);
    memset(key, 0, 4);
    key->protocol = ip->next_proto_id;
    key->source = ip->src_addr;
    key->destination = ip->dst_addr;
    key->source_port = ports[0];
    key->destination_port = ports[1];
    if (rewrite) {
        uint32_t sum = ip->hdr_checksum + RTE_BE16(0x0100);
        ip->time_to_live--;
        ip->hdr_checksum = (uint16_t)(sum + (sum >> 16));
    }
    return 1;
}

static inline void in_order(const struct key *from, struct key *to)
{
    int swap = from->source > from->destination ||
               (from->source == from->destination && from->source_port > from->destination_port);

    *to = *from;
    if (swap) {
        to->source = from->destination;
        to->destination = from->source;
        to->source_port = from->destination_port;
        to->destination_port = from->source_port;
    }
}

static inline struct rte_acl_ctx *acl_build(const struct rules *rules)
{
    static const struct rte_acl_field_def fields[FIELDS] = {
        {RTE_ACL_FIELD_TYPE_BITMASK, 1, FIELD_PROTOCOL, 0, offsetof(struct key, protocol)},
        {RTE_ACL_FIELD_TYPE_MASK, 4, FIELD_SOURCE, 1, offsetof(struct key, source)},
        {RTE_ACL_FIELD_TYPE_MASK, 4, FIELD_DESTINATION, 2, offsetof(struct key, destination)},
        {RTE_ACL_FIELD_TYPE_RANGE, 2, FIELD_SOURCE_PORT, 3, offsetof(struct key, source_port)},
        {RTE_ACL_FIELD_TYPE_RANGE, 2, FIELD_DESTINATION_PORT, 3, offsetof(struct key, destination_port)},
    };
    static unsigned number;
    char name[32];
    snprintf(name, sizeof(name), "policy%u", number++);
    struct rte_acl_param parameters = {
        .name = name,
        .socket_id = table_memory,
        .rule_size = RTE_ACL_RULE_SZ(FIELDS),
        .max_rule_num = rules->count,
    };
    struct rte_acl_config config = {.num_categories = 1, .num_fields = FIELDS};
    struct rte_acl_ctx *acl = rte_acl_create(&parameters);

    if (!acl)
        return NULL;
    for (uint32_t i = 0; i < rules->count; i++) {
        const struct rule *from = &rules->list[i];
        struct gateway_rule rule = {
            .data = {.userdata = 1, .category_mask = 1, .priority = 1},
            .field[FIELD_PROTOCOL] = {.value.u8 = from->protocol, .mask_range.u8 = 0xff},
            .field[FIELD_SOURCE] = {.value.u32 = from->source, .mask_range.u32 = from->source_bits},
            .field[FIELD_DESTINATION] = {.value.u32 = from->destination, .mask_range.u32 = from->destination_bits},
            .field[FIELD_SOURCE_PORT] = {.value.u16 = 0, .mask_range.u16 = 0xffff},
            .field[FIELD_DESTINATION_PORT] = {.value.u16 = from->low, .mask_range.u16 = from->high},
        };
        if (rte_acl_add_rules(acl, (struct rte_acl_rule *)&rule, 1))
            return NULL;
    }
    memcpy(config.defs, fields, sizeof(fields));
    return rte_acl_build(acl, &config) ? NULL : acl;
}

/* With room for so many connections. */
static inline int gateway_init(struct gateway *gateway, uint32_t room, struct rte_acl_ctx *acl)
{
    static unsigned number;
    char name[32];
    snprintf(name, sizeof(name), "connections%u", number++);
    struct rte_hash_parameters parameters = {
        .name = name,
        /* Half empty, so that an entry can always be placed. */
        .entries = room * 2,
        .key_len = sizeof(struct key),
        .hash_func = rte_hash_crc,
        .socket_id = table_memory,
    };
    *gateway = (struct gateway){.room = room, .acl = acl};
    gateway->table = rte_hash_create(&parameters);
    gateway->oldest = calloc(room, sizeof(struct key));
    return gateway->table && gateway->oldest ? 0 : -1;
}

static inline void gateway_enter(struct gateway *gateway, const struct key *ordered)
{
    struct key *slot = &gateway->oldest[gateway->next];

    if (gateway->entered >= gateway->room)
        rte_hash_del_key(gateway->table, slot);
    *slot = *ordered;
    if (rte_hash_add_key(gateway->table, ordered) >= 0)
        gateway->entered++;
    if (++gateway->next == gateway->room)
        gateway->next = 0;
}

/* Which of at most 64 packets may pass, as a mask; enters the new ones that may. */
static inline uint64_t gateway_judge(struct gateway *gateway, const struct key *keys, uint32_t count)
{
    struct key ordered[64];
    const void *wanted[64];
    int32_t found[64];
    const uint8_t *asked[64];
    uint32_t verdicts[64], new[64], news = 0;
    uint64_t pass = 0;

    for (uint32_t i = 0; i < count; i++) {
        in_order(&keys[i], &ordered[i]);
        wanted[i] = &ordered[i];
    }
    rte_hash_lookup_bulk(gateway->table, wanted, count, found);
    for (uint32_t i = 0; i < count; i++) {
        if (found[i] >= 0) {
            pass |= 1ull << i;
        } else {
            asked[news] = (const uint8_t *)&keys[i];
            new[news++] = i;
        }
    }
    if (likely(!news))
        return pass;
    if (gateway->acl)
        rte_acl_classify(gateway->acl, asked, verdicts, news, 1);
    for (uint32_t i = 0; i < news; i++) {
        if (gateway->acl && !verdicts[i])
            continue;
        gateway_enter(gateway, &ordered[new[i]]);
        pass |= 1ull << new[i];
    }
    return pass;
}
