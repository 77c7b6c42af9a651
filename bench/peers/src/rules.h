/* The list of what is allowed, one rule a line: PROTOCOL LOW-PORT HIGH-PORT SOURCE/BITS DESTINATION/BITS. What no line allows is
 * denied; an empty list means that there is no policy at all. Addresses are kept in host byte order. */
#pragma once
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct rule {
    uint32_t protocol, low, high, source, source_bits, destination, destination_bits;
};

struct rules {
    struct rule *list;
    uint32_t count;
};

static inline int rules_read(const char *path, struct rules *rules)
{
    FILE *file = fopen(path, "r");
    char source[16], destination[16];
    struct rule rule;
    uint32_t room = 0;

    rules->list = NULL;
    rules->count = 0;
    if (!file)
        return -1;
    while (fscanf(file, "%u %u %u %15[0-9.]/%u %15[0-9.]/%u", &rule.protocol, &rule.low, &rule.high, source,
                  &rule.source_bits, destination, &rule.destination_bits) == 7) {
        if (rules->count == room) {
            room = room ? room * 2 : 1024;
            rules->list = realloc(rules->list, room * sizeof(rule));
            if (!rules->list)
                abort();
        }
        rule.source = ntohl(inet_addr(source));
        rule.destination = ntohl(inet_addr(destination));
        rules->list[rules->count++] = rule;
    }
    int complete = feof(file);
    fclose(file);
    return complete ? 0 : -1;
}
